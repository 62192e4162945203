r"""Train a small backbone on a CPU, and show what it learned.

    python tools/demo.py --task det --family gmlp     # Mask R-CNN on made images
    python tools/demo.py --task seg --family gmlp     # UperNet on made images
    python tools/demo.py --task real --family shift_gmlp --pretrained   # on photographs of cells

Makes or fetches the data if it is not there, trains a config of configs/demo or configs/finetune
as tools/train.py would, from scratch or from the weights of this project, evaluates on held-out
images and draws predictions and curves into the work dir.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Before torch is loaded: its threads otherwise spin while they wait for one another, and on two
# cores with anything else running a step takes ten times as long.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

try:
    from mlp_backbones.data import use_data
    from mlp_backbones.engine import launch
    from mlp_backbones.engine.data_check import check_data
    from mlp_backbones.engine.flags import start_from_weights
    from mlp_backbones.engine.training_start import check_start
except ImportError as error:  # it says what to install
    sys.exit(f'demo.py: {error}')
import get_bccd
import matplotlib.pyplot as plt
import mmcv
import numpy as np
import torch
from make_demo_data import is_complete, make_demo_data, stored_settings
from mmengine.config import Config, DictAction
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from PIL import Image

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
PROGRESS = ('Epoch(', 'Iter(', '\n+')  # how mmengine's lines of progress and mmseg's tables start
NUM_PICTURES = 8


class Task(NamedTuple):
    config: str  # below CONFIGS, with {family}
    data_root: str
    work_dir: str
    metrics: dict[str, str]  # name for people: name in the log
    percent: float = 100  # what turns a logged value into percent
    enlarge: int = 2  # a picture, so that there is room for labels


BOX = {'box AP': 'coco/bbox_mAP', 'box AP50': 'coco/bbox_mAP_50'}
MASK = {'mask AP': 'coco/segm_mAP', 'mask AP50': 'coco/segm_mAP_50'}
TASKS = {
    'det': Task('demo/{family}_maskrcnn.py', 'data/demo', 'work_dirs/demo', BOX | MASK),
    'seg': Task(
        'demo/{family}_upernet.py',
        'data/demo',
        'work_dirs/demo-seg',
        {'mIoU': 'mIoU', 'pixel accuracy': 'aAcc'},
        percent=1,
    ),
    'real': Task(
        'finetune/{family}_maskrcnn_5min.py', 'data/bccd', 'work_dirs/demo-real', BOX, enlarge=1
    ),
}


def find_config(family: str, task: Task) -> Path:
    """The task's config of a family.

    Raises:
        ValueError: There is none.
    """
    config = CONFIGS / task.config.format(family=family)
    if not config.is_file():
        rest = Path(task.config).name.removeprefix('{family}')
        families = sorted(path.name.removesuffix(rest) for path in config.parent.glob(f'*{rest}'))
        raise ValueError(f'no demo of the family {family!r}; there are: {", ".join(families)}')
    return config


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what the libraries print and warn of from the console."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


def train(cfg: Config) -> Runner:
    """Train and evaluate; on the console only the progress."""
    with quiet():  # mmengine lists the environment and the whole config: see its log
        runner = Runner.from_cfg(cfg)
    for handler in runner.logger.handlers:
        if type(handler) is logging.StreamHandler:  # the console; the file keeps everything
            handler.setStream(sys.stdout)
            handler.addFilter(lambda record: record.getMessage().startswith(PROGRESS))
    with quiet():
        runner.train()
    return runner


def read_log(runner: Runner) -> list[dict]:
    """The rows that mmengine logged: losses by iteration, metrics by epoch."""
    log = Path(runner.log_dir, 'vis_data', 'scalars.json')
    return [json.loads(line) for line in log.read_text().splitlines()]


def draw_curves(rows: list[dict], task: Task, unit: str, file: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout='constrained')
    losses = [row for row in rows if 'loss' in row]
    names = [name for name in losses[0] if 'loss' in name]
    for name in sorted(names, key=len):  # the sum first
        left.plot([row['iter'] for row in losses], [row[name] for row in losses], label=name)
    left.set(xlabel='iteration', title='training loss', ylim=(0, None))
    for name, key in task.metrics.items():
        points = [(row['step'], task.percent * row[key]) for row in rows if key in row]
        right.plot(*zip(*points, strict=True), marker='o', label=name)
    right.set(xlabel=unit, title='held-out images, %', ylim=(0, 100))
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=100)
    plt.close(figure)


def enlarge(sample: BaseDataElement, times: int) -> BaseDataElement:
    """The boxes and masks of a data sample for its picture enlarged."""
    for name in ('gt_instances', 'pred_instances'):
        if name in sample:
            instances = sample.get(name)
            instances.bboxes = instances.bboxes * times
            if 'masks' in instances:
                masks = instances.masks
                masks = masks.to_ndarray() if hasattr(masks, 'to_ndarray') else masks.numpy()
                instances.masks = torch.from_numpy(enlarge_array(masks, times))
    for name in ('gt_sem_seg', 'pred_sem_seg'):
        if name in sample:
            labels = sample.get(name).data
            sample.set_data({name: type(sample.get(name))(data=enlarge_array(labels, times))})
    return sample


def enlarge_array(x: np.ndarray | torch.Tensor, times: int) -> np.ndarray:
    """The pixels of maps (N, H, W), repeated."""
    return np.repeat(np.repeat(np.asarray(x), times, axis=-2), times, axis=-1)


def draw_predictions(runner: Runner, task: Task, folder: Path) -> list[Path]:
    """Draw held-out images, ground truth left and prediction right; one file each."""
    dataset = runner.val_dataloader.dataset
    runner.model.eval()
    files = []
    for index in range(min(NUM_PICTURES, len(dataset))):
        with torch.no_grad():
            sample = runner.model.test_step(pseudo_collate([dataset[index]]))[0].cpu()
        image = mmcv.imread(sample.img_path, channel_order='rgb')
        image = mmcv.imrescale(image, task.enlarge, interpolation='bicubic')
        files.append(folder / f'{Path(sample.img_path).stem}.png')
        runner.visualizer.add_datasample(
            'prediction', image, enlarge(sample, task.enlarge), out_file=str(files[-1])
        )
    return files


def draw_grid(pictures: list[Path], file: Path) -> None:
    """All pictures in one, two in a row."""
    pixels = [mmcv.imread(str(picture), channel_order='rgb') for picture in pictures]
    rows, (height, width) = -(-len(pixels) // 2), pixels[0].shape[:2]
    figure, grid = plt.subplots(
        rows,
        2,
        figsize=(10.4, (5.1 * height / width + 0.1) * rows + 0.1),
        squeeze=False,
        layout='constrained',
    )
    for axes in grid.flat:
        axes.axis('off')
    for axes, picture in zip(grid.flat, pixels, strict=False):
        axes.imshow(picture)
    for axes in grid[0]:
        axes.set_title('ground truth', loc='left')
        axes.set_title('prediction', loc='right')
    figure.savefig(file, dpi=100)
    plt.close(figure)
    Image.open(file).quantize(256).save(file)  # a third of the size


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--task', choices=list(TASKS), default='det', help='default: det')
    parser.add_argument('--family', default='gmlp', help='default: gmlp')
    parser.add_argument(
        '--pretrained', action='store_true', help='start from the weights of docs/weights.md'
    )
    parser.add_argument('--work-dir', help='default: work_dirs/demo, demo-seg or demo-real')
    parser.add_argument(
        '--data-root',
        help='default: data/demo; for real, data/bccd, or a folder of your own with COCO '
        'annotations',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='change settings of the config, as in randomness.seed=1',
    )
    return parser.parse_args()


def get_data(task: Task, data_root: str) -> None:
    """Make or fetch the data, unless it is there."""
    root = Path(data_root)
    if task is TASKS['real']:
        if data_root == task.data_root and not get_bccd.is_complete(root):
            print(f'Fetching {get_bccd.ADDRESS} into {root}', flush=True)
            get_bccd.get_bccd(root)
        return
    settings = stored_settings(root)
    if settings is None or not is_complete(root, settings):
        print(f'Making the demo data in {root}', flush=True)
        make_demo_data(data_root)


def prepare(args: argparse.Namespace, task: Task) -> Config:
    """Get the data, and read the config."""
    config = find_config(args.family, task)
    options, data_root = dict(args.cfg_options), args.data_root or task.data_root
    is_real = task is TASKS['real']
    cfg = launch.load_config(str(config), options | ({} if is_real else {'data_root': data_root}))
    cfg.work_dir = args.work_dir or task.work_dir
    if args.pretrained:
        start_from_weights(cfg, 'auto')
        check_start(cfg)
    get_data(task, data_root)
    if is_real:
        print(use_data(cfg, data_root, cfg.work_dir).table(), flush=True)
    check_data(cfg, ['train', 'val'])
    return cfg


def main() -> None:
    args = parse_args()
    task = TASKS[args.task]
    start = time.time()
    try:
        cfg = prepare(args, task)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f'demo.py: {error}')
    by_epoch = 'max_epochs' in cfg.train_cfg
    length = cfg.train_cfg.max_epochs if by_epoch else cfg.train_cfg.max_iters
    unit = 'epoch' if by_epoch else 'iter'
    print(f'Training {cfg.filename} for {length} {unit}s', flush=True)
    runner = train(cfg)

    work_dir = Path(cfg.work_dir)
    rows = read_log(runner)
    draw_curves(rows, task, unit, work_dir / 'curves.png')
    with quiet():
        pictures = draw_predictions(runner, task, work_dir / 'predictions')
    draw_grid(pictures, work_dir / 'predictions.png')

    final = next(row for row in reversed(rows) if set(task.metrics.values()) <= set(row))
    print(f'\nOn {len(runner.val_dataloader.dataset)} held-out images, in percent:')
    for name, key in task.metrics.items():
        print(f'  {name:<15}{task.percent * final[key]:6.1f}')
    print(f'{(time.time() - start) / 60:.1f} minutes. In {work_dir}:')
    for name, what in {
        'predictions.png': 'ground truth beside predictions (one by one in predictions/)',
        'curves.png': 'loss and accuracy while it trained',
        f'{unit}_{length}.pth': 'the checkpoint, which holds its config too',
        f'{runner.timestamp}/': "mmengine's log",
    }.items():
        print(f'  {name:<19}{what}')


if __name__ == '__main__':
    main()
