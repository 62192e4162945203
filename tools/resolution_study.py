r"""Which resolution mode is best? Small segmentors on CamVid, tested at five resolutions.

    python tools/resolution_study.py /data/camvid --out study.csv
    python tools/resolution_study.py --out study.csv --report
    python tools/resolution_study.py /data/camvid --out study.csv --multi-scale --rows Shift
    python tools/resolution_study.py /data/camvid --out study.csv --multi-scale --pretrained

Every row trains one backbone of about 2 M parameters with mmseg's SegformerHead from
scratch on whole images of one size, as detectors are trained, and reports the mIoU on the
validation images at 0.5 to 2 times that resolution, against labels at full resolution. With
``--multi-scale`` it is trained on crops of that size from images resized by 0.5 to 2, as
segmentors are, and three times as long. With ``--pretrained`` the defaults and the baselines
start from the weights of this project (docs/weights.md), at half the rate. A run is one line of
the CSV file; runs that it has are not repeated, so that the command may be stopped and started
again, and two may run at once with different ``--seeds``.
See docs/resolution.md.
"""

import argparse
import csv
import re
import sys
import time
from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import Tensor, nn

from mlp_backbones.checkpoints import own_weights, safe_loading
from mlp_backbones.models.layers import Region, resample

CLASSES, IGNORED = 11, 11
SIZE = (144, 192)  # of the training images; CamVid's are 360 x 480
GRID_SIZE = 128  # pretrain_img_size: grids of 8, 8, 8 and 4 tokens a side
SCALES = (0.5, 0.75, 1.0, 1.5, 2.0)
NANO = (32, 64, 128, 256)
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def ours(family: str, resolution=None, strides=(16, 16, 16, 32), **options) -> dict:
    if resolution is not None:
        options['resolution'] = resolution
    if family not in ('S2MLP', 'ShiftGMLP'):
        depths = (2, 2, 4, 2)
        options['arch'] = dict(channels=NANO, depths=depths, mixing_strides=strides)
    else:
        options['arch'] = 'nano'
    return dict(
        type=f'mlp_backbones.{family}', pretrain_img_size=GRID_SIZE, drop_path_rate=0.0, **options
    )


STAGES = ('window', 'window', 'interpolate', 'interpolate')
COARSE, FINE, FIXED = (32, 32, 32, 32), (8, 8, 16, 32), (4, 8, 16, 32)
ROWS = {
    'GMLP window+interpolate': ours('GMLP', 'window+interpolate'),
    'GMLP interpolate': ours('GMLP', 'interpolate'),
    'GMLP window': ours('GMLP', 'window'),
    'GMLP grid': ours('GMLP', 'grid'),
    'GMLP window+grid': ours('GMLP', 'window+grid'),
    'GMLP w, w, i, i': ours('GMLP', STAGES),
    'GMLP w, w, i, i, conv stem': ours('GMLP', STAGES, stem='conv'),
    'GMLP one size': ours('GMLP', 'interpolate', FIXED),
    'GMLP residual resampled': ours('GMLP', 'interpolate'),
    'MLPMixer window+interpolate': ours('MLPMixer', 'window+interpolate'),
    'MLPMixer interpolate': ours('MLPMixer', 'interpolate'),
    'MLPMixer window': ours('MLPMixer', 'window'),
    'MLPMixer window+grid': ours('MLPMixer', 'window+grid'),
    'MLPMixer w, w, i, i': ours('MLPMixer', STAGES),
    'ResMLP window+interpolate': ours('ResMLP', 'window+interpolate'),
    'ResMLP interpolate': ours('ResMLP', 'interpolate'),
    'ResMLP window': ours('ResMLP', 'window'),
    'ResMLP window+grid': ours('ResMLP', 'window+grid'),
    'ResMLP w, w, i, i': ours('ResMLP', STAGES),
    'S2MLP': ours('S2MLP'),
    'ShiftGMLP': ours('ShiftGMLP'),
    'ResNet-18 (conv)': dict(
        type='ResNet', depth=18, base_channels=28, stem_channels=28, norm_cfg=dict(type='BN')
    ),
    'Swin (attention)': dict(
        type='SwinTransformer', embed_dims=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8)
    ),
    'GMLP window+interpolate, grids 4 4 4 4': ours('GMLP', 'window+interpolate', COARSE),
    'GMLP window+interpolate, grids 16 16 8 4': ours('GMLP', 'window+interpolate', FINE),
    'MLPMixer window+interpolate, grids 4 4 4 4': ours('MLPMixer', 'window+interpolate', COARSE),
    'MLPMixer window+interpolate, grids 16 16 8 4': ours('MLPMixer', 'window+interpolate', FINE),
    'ResMLP window+interpolate, grids 4 4 4 4': ours('ResMLP', 'window+interpolate', COARSE),
    'ResMLP window+interpolate, grids 16 16 8 4': ours('ResMLP', 'window+interpolate', FINE),
}
# What the presets do, and the baselines, with the names of their weights.
DEFAULTS = {
    'GMLP w, w, i, i': 'gmlp',
    'MLPMixer interpolate': 'mlp_mixer',
    'ResMLP window+interpolate': 'resmlp',
    'S2MLP': 's2mlp',
    'ShiftGMLP': 'shift_gmlp',
    'ResNet-18 (conv)': 'resnet18',
    'Swin (attention)': 'swin',
}
MULTI_SCALE, PRETRAINED = ', multi-scale', ', pre-trained'
SUFFIXES = re.compile(rf'({MULTI_SCALE})?({PRETRAINED})?(, slide|, pad)?$')
# Rows that are also tested in tiles of the training size, so that no mixing is resized.
IN_TILES = ('GMLP window+interpolate', 'GMLP one size')


class ResidualResampled(nn.Module):
    """The naive way: the whole map goes to the grid and back, and not only the mixing."""

    def __init__(self, block: nn.Module, grid: int):
        super().__init__()
        self.block = block
        self.grid = grid

    def forward(self, x: Tensor, region: Region) -> Tensor:
        return resample(self.block(resample(x, (self.grid, self.grid))), region.size)


def backbone_of(row: str, pretrained: bool) -> dict:
    if not pretrained:
        return dict(ROWS[row])
    return dict(ROWS[row], init_cfg=own_weights.init_cfg(f'{DEFAULTS[row]}_nano_tiny_imagenet'))


def widths_of(row: str) -> list[int]:
    """Channels of the maps of a row's backbone."""
    return [28, 56, 112, 224] if row.startswith('ResNet') else list(NANO)


def build_model(row: str, pretrained: bool = False) -> nn.Module:
    model = MODELS.build(
        dict(
            type='EncoderDecoder',
            backbone=backbone_of(row, pretrained),
            decode_head=dict(
                type='SegformerHead',
                in_channels=widths_of(row),
                in_index=[0, 1, 2, 3],
                channels=64,
                num_classes=CLASSES,
                norm_cfg=dict(type='BN'),
            ),
            test_cfg=ConfigDict(mode='whole'),
        )
    )
    with safe_loading():
        model.init_weights()
    if row == 'GMLP residual resampled':
        backbone = model.backbone
        for stage, resolutions in zip(backbone.stages, backbone.resolutions, strict=True):
            for i, block in enumerate(stage):
                stage[i] = ResidualResampled(block, resolutions[i].grid)
    return model


def read(root: Path, split: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images (360, 480, 3), RGB, and labels (360, 480)."""
    images, labels = [], []
    for path in sorted((root / 'images' / split).glob('*')):
        label = root / 'annotations' / split / f'{path.stem}.png'
        images.append(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB))
        labels.append(cv2.imread(str(label), cv2.IMREAD_UNCHANGED))
        if labels[-1] is None:
            sys.exit(f'resolution_study.py: {path} has no labels in {label}')
    if not images:
        sys.exit(f'resolution_study.py: no images in {root / "images" / split}')
    return images, labels


def to_batch(images: np.ndarray) -> Tensor:
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def batches(data, batch_size: int, rng: np.random.Generator, multi_scale: bool):
    """Endless batches at the training size, flipped at random: of whole images, or of crops."""
    while True:
        order = rng.permutation(len(data[0]))
        for i in range(0, len(order) - batch_size + 1, batch_size):
            pairs = [
                augment(data[0][j], data[1][j], rng, multi_scale)
                for j in order[i : i + batch_size]
            ]
            x, y = map(np.stack, zip(*pairs, strict=True))
            yield to_batch(x), torch.from_numpy(y).long()


def augment(
    image: np.ndarray, label: np.ndarray, rng: np.random.Generator, multi_scale: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The image at the training size; with ``multi_scale`` a crop of it at 0.5 to 2 times that,
    where a smaller one is padded with the mean, and with labels that are ignored.
    """
    scale = 2 ** rng.uniform(-1, 1) if multi_scale else 1
    h, w = (round(scale * n) for n in SIZE)
    image = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
    label = cv2.resize(label, (w, h), interpolation=cv2.INTER_NEAREST)
    if multi_scale:
        below, right = (max(n - m, 0) for n, m in zip(SIZE, (h, w), strict=True))
        image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=MEAN)
        label = cv2.copyMakeBorder(label, 0, below, 0, right, cv2.BORDER_CONSTANT, value=IGNORED)
        top, left = (rng.integers(0, m - n + 1) for n, m in zip(SIZE, label.shape, strict=True))
        window = slice(top, top + SIZE[0]), slice(left, left + SIZE[1])
        image, label = image[window], label[window]
    flip = -1 if rng.random() < 0.5 else 1
    return image[:, ::flip], label[:, ::flip]


def train(model: nn.Module, data, args: argparse.Namespace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    decay = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [dict(params=decay, weight_decay=0.05), dict(params=others, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, args.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=args.iters, pct_start=0.1, cycle_momentum=False
    )
    model.train()
    endless = batches(data, args.batch_size, rng, args.multi_scale)
    for _, (x, y) in zip(range(args.iters), endless, strict=False):
        logits = F.interpolate(model(x, mode='tensor'), SIZE, mode='bilinear')
        loss = F.cross_entropy(logits, y, ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()


def whole(model: nn.Module, x: Tensor) -> Tensor:
    return model.encode_decode(x, [dict(img_shape=x.shape[2:])])


def pad_to(x: Tensor, height: int, width: int) -> Tensor:
    return F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]))


def slide(model: nn.Module, x: Tensor) -> Tensor:
    """mmseg's sliding windows of the training size, a third of each overlapping. A smaller image
    is one window.
    """
    model.test_cfg.update(crop_size=SIZE, stride=[n * 2 // 3 for n in SIZE])
    return model.slide_inference(x, [dict(img_shape=x.shape[2:])])


def pad(model: nn.Module, x: Tensor) -> Tensor:
    """Zeros up to a multiple of the training size, then tiles of that size."""
    h, w = x.shape[2:]
    rows, columns = -(-h // SIZE[0]), -(-w // SIZE[1])
    x = pad_to(x, rows * SIZE[0], columns * SIZE[1])
    x = x.unflatten(2, (rows, SIZE[0])).unflatten(4, (columns, SIZE[1]))
    y = whole(model, x.permute(0, 2, 4, 1, 3, 5).flatten(0, 2))
    y = y.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).flatten(1, 2).flatten(2, 3)
    return y[None, :, :h, :w]


@torch.no_grad()
def mean_iou(model: nn.Module, data, scale: float, predict=whole) -> float:
    confusion = np.zeros((CLASSES, CLASSES), np.int64)
    size = tuple(round(scale * n) for n in SIZE[::-1])
    for image, label in zip(*data, strict=True):
        x = to_batch(cv2.resize(image, size, interpolation=cv2.INTER_AREA)[None])
        logits = F.interpolate(predict(model, x), label.shape, mode='bilinear')
        prediction = logits[0].permute(1, 2, 0).contiguous().argmax(-1).numpy()
        valid = label != IGNORED
        pairs = label[valid].astype(np.int64) * CLASSES + prediction[valid]
        confusion += np.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES)
    hits = np.diag(confusion)
    return 100 * float(np.mean(hits / (confusion.sum(0) + confusion.sum(1) - hits)))


def run(row: str, seed: int, args: argparse.Namespace, data: dict) -> list[dict]:
    torch.manual_seed(seed)
    model = build_model(row, args.pretrained)
    start = time.process_time()
    train(model, data['train'], args, seed)
    seconds = time.process_time() - start
    model.eval()
    results = []
    for predict in (whole, slide, pad) if row in IN_TILES else (whole,):
        suffix = args.suffix + ('' if predict is whole else f', {predict.__name__}')
        scores = {str(s): round(mean_iou(model, data['val'], s, predict), 2) for s in SCALES}
        params = sum(p.numel() for p in model.backbone.parameters()) / 1e6
        results.append(
            dict(row=row + suffix, seed=seed, iters=args.iters, params=round(params, 2))
            | dict(train_s=round(seconds)) | scores
        )  # fmt: skip
    return results


def read_results(path: Path) -> list[dict]:
    return list(csv.DictReader(path.open())) if path.exists() else []


def choose(known: Collection[str], text: str) -> list[str]:
    """The row of that name, or those whose names contain it.

    Raises:
        ValueError: if there are none.
    """
    rows = [text] if text in known else [row for row in known if text in row]
    if not rows:
        raise ValueError(f'--rows {text}: none of {", ".join(known)}')
    return rows


def append(path: Path, results: list[dict]) -> None:
    is_new = not path.exists()
    with path.open('a', newline='') as file:
        writer = csv.DictWriter(file, list(results[0]))
        if is_new:
            writer.writeheader()
        writer.writerows(results)


def summarise(results: list[dict]) -> dict[str, dict]:
    """Mean and half the range over seeds, by row in the order of ROWS."""
    names = sorted(
        {r['row'] for r in results},
        key=lambda name: (
            MULTI_SCALE in name,
            PRETRAINED in name,
            list(ROWS).index(SUFFIXES.sub('', name)),
        ),
    )
    table = {}
    for name in names:
        runs = [r for r in results if r['row'] == name]
        scores = np.array([[float(r[str(s)]) for s in SCALES] for r in runs])
        table[name] = dict(
            runs=len(runs),
            params=runs[0]['params'],
            mean=scores.mean(0),
            spread=(scores.max(0) - scores.min(0)) / 2,
        )
    return table


def report(path: Path, plot: str | None) -> None:
    table = summarise(read_results(path))
    if not table:
        sys.exit(f'resolution_study.py: no results in {path}')
    print('| backbone | params M | seeds |', ' | '.join(f'{s:g}x' for s in SCALES), '| mean |')
    print('|---|---|---|' + '---|' * (len(SCALES) + 1))
    for name, r in table.items():
        cells = [f'{m:.1f} ± {d:.1f}' for m, d in zip(r['mean'], r['spread'], strict=True)]
        cells.append(f'{r["mean"].mean():.1f}')
        print(f'| {name} | {r["params"]} | {r["runs"]} |', ' | '.join(cells), '|')
    if plot:
        draw(table, plot)


def draw(table: dict[str, dict], path: str) -> None:
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    naive = ('slide', 'pad', 'one size', 'resampled')
    others = (MULTI_SCALE, PRETRAINED)
    table = {name: r for name, r in table.items() if not any(x in name for x in others)}
    modes = [name for name in table if 'grids' not in name and not name.endswith(naive)]
    panels = {
        'GMLP': [name for name in modes if name.startswith('GMLP')],
        'GMLP and the naive ways': ['GMLP w, w, i, i', *(n for n in table if n.endswith(naive))],
        'MLPMixer': [name for name in modes if name.startswith('MLPMixer')],
        'ResMLP': [name for name in modes if name.startswith('ResMLP')],
        'the defaults and the baselines': list(DEFAULTS),
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(19, 5.4), sharey=True)
    for axis, (title, names) in zip(axes, panels.items(), strict=True):
        for name in filter(table.__contains__, names):
            label = name.removeprefix(title.split()[0]).strip(' ,')
            axis.plot(SCALES, table[name]['mean'], marker='o', ms=3, label=label)
        axis.set(title=title, xscale='log', xlabel='resolution / training resolution')
        axis.set_xticks(SCALES, [f'{s:g}' for s in SCALES])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8, loc='upper center', bbox_to_anchor=(0.5, -0.2))
    axes[0].set_ylabel('mIoU, %')
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data', nargs='?', type=Path, help='CamVid: images/ and annotations/')
    parser.add_argument('--out', type=Path, default=Path('resolution_study.csv'), help='CSV file')
    parser.add_argument(
        '--rows', default='', help='only the row of this name, or those that have it in theirs'
    )
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1], help='one run each')
    parser.add_argument('--multi-scale', action='store_true', help='train on crops of 0.5 to 2x')
    parser.add_argument('--iters', type=int, help='default: 700, with --multi-scale 2100')
    parser.add_argument('--batch-size', type=int, default=4)
    parser.add_argument('--pretrained', action='store_true', help='start from our weights')
    parser.add_argument('--lr', type=float, help='default: 1e-3, with --pretrained 5e-4')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--report', action='store_true', help='print the table of --out')
    parser.add_argument('--plot', metavar='PNG', help='with --report: draw it as well')
    args = parser.parse_args()
    args.iters = args.iters or (2100 if args.multi_scale else 700)
    args.lr = args.lr or (5e-4 if args.pretrained else 1e-3)
    args.suffix = MULTI_SCALE * args.multi_scale + PRETRAINED * args.pretrained
    return args


def main() -> None:
    args = parse_args()
    if args.report:
        return report(args.out, args.plot)
    if args.data is None:
        sys.exit('resolution_study.py: name the folder of CamVid, or give --report')
    try:
        rows = choose(DEFAULTS if args.pretrained else ROWS, args.rows)
    except ValueError as error:
        sys.exit(f'resolution_study.py: {error}')
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(0)
    init_default_scope('mmseg')
    MMLogger.get_current_instance().setLevel('WARNING')  # not how each weight was initialised
    data = {split: read(args.data, split) for split in ('train', 'val')}
    for seed in args.seeds:
        for row in rows:
            done = {(r['row'], int(r['seed'])) for r in read_results(args.out)}
            if (row + args.suffix, seed) in done:
                continue
            for result in (results := run(row, seed, args, data)):
                print(*result.values(), flush=True)
            append(args.out, results)


if __name__ == '__main__':
    main()
