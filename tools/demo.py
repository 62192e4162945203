r"""Train a small backbone from scratch on made images, on a CPU, and show what it learned.

    python tools/demo.py --task det --family gmlp     # Mask R-CNN
    python tools/demo.py --task seg --family gmlp     # UperNet

Makes the data if it is not there, trains configs/demo/<family>_<head>.py as tools/train.py would,
evaluates on held-out images and draws predictions and curves into the work dir.
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
    from mlp_backbones.engine import launch
    from mlp_backbones.engine.data_check import check_data
except ImportError as error:  # it says what to install
    sys.exit(f'demo.py: {error}')
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

CONFIGS = Path(__file__).resolve().parents[1] / 'configs' / 'demo'
PROGRESS = ('Epoch(', '\n+')  # how mmengine's lines of progress and mmseg's tables start
NUM_PICTURES = 8
ENLARGE = 2  # of a picture, so that there is room for labels


class Task(NamedTuple):
    head: str  # the config is {family}_{head}.py
    work_dir: str
    metrics: dict[str, str]  # name for people: name in the log
    percent: float  # what turns a logged value into percent


TASKS = {
    'det': Task(
        head='maskrcnn',
        work_dir='work_dirs/demo',
        metrics={
            'box AP': 'coco/bbox_mAP',
            'box AP50': 'coco/bbox_mAP_50',
            'mask AP': 'coco/segm_mAP',
            'mask AP50': 'coco/segm_mAP_50',
        },
        percent=100,
    ),
    'seg': Task(
        head='upernet',
        work_dir='work_dirs/demo-seg',
        metrics={'mIoU': 'mIoU', 'pixel accuracy': 'aAcc'},
        percent=1,
    ),
}


def find_config(family: str, head: str) -> Path:
    """The demo's config of a family.

    Raises:
        ValueError: There is none.
    """
    config = CONFIGS / f'{family}_{head}.py'
    if not config.is_file():
        families = sorted(
            path.stem.removesuffix(f'_{head}') for path in CONFIGS.glob(f'*_{head}.py')
        )
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


def draw_curves(rows: list[dict], task: Task, file: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout='constrained')
    losses = [row for row in rows if 'loss' in row]
    names = [name for name in losses[0] if 'loss' in name]
    for name in sorted(names, key=len):  # the sum first
        left.plot([row['iter'] for row in losses], [row[name] for row in losses], label=name)
    left.set(xlabel='iteration', title='training loss', ylim=(0, None))
    for name, key in task.metrics.items():
        points = [(row['step'], task.percent * row[key]) for row in rows if key in row]
        right.plot(*zip(*points, strict=True), marker='o', label=name)
    right.set(xlabel='epoch', title='held-out images, %', ylim=(0, 100))
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=100)
    plt.close(figure)


def enlarge(sample: BaseDataElement) -> BaseDataElement:
    """The boxes and masks of a data sample for its picture enlarged."""
    for name in ('gt_instances', 'pred_instances'):
        if name in sample:
            instances = sample.get(name)
            masks = instances.masks
            masks = masks.to_ndarray() if hasattr(masks, 'to_ndarray') else masks.numpy()
            instances.bboxes = instances.bboxes * ENLARGE
            instances.masks = torch.from_numpy(enlarge_array(masks))
    for name in ('gt_sem_seg', 'pred_sem_seg'):
        if name in sample:
            labels = sample.get(name).data
            sample.set_data({name: type(sample.get(name))(data=enlarge_array(labels))})
    return sample


def enlarge_array(x: np.ndarray | torch.Tensor) -> np.ndarray:
    """The pixels of maps (N, H, W), repeated."""
    return np.repeat(np.repeat(np.asarray(x), ENLARGE, axis=-2), ENLARGE, axis=-1)


def draw_predictions(runner: Runner, folder: Path) -> list[Path]:
    """Draw held-out images, ground truth left and prediction right; one file each."""
    dataset = runner.val_dataloader.dataset
    runner.model.eval()
    files = []
    for index in range(min(NUM_PICTURES, len(dataset))):
        with torch.no_grad():
            sample = runner.model.test_step(pseudo_collate([dataset[index]]))[0].cpu()
        image = mmcv.imread(sample.img_path, channel_order='rgb')
        image = mmcv.imrescale(image, ENLARGE, interpolation='bicubic')
        files.append(folder / f'{Path(sample.img_path).stem}.png')
        runner.visualizer.add_datasample(
            'prediction', image, enlarge(sample), out_file=str(files[-1])
        )
    return files


def draw_grid(pictures: list[Path], file: Path) -> None:
    """All pictures in one, two in a row."""
    rows = -(-len(pictures) // 2)
    figure, grid = plt.subplots(
        rows, 2, figsize=(10.4, 2.65 * rows + 0.1), squeeze=False, layout='constrained'
    )
    for axes in grid.flat:
        axes.axis('off')
    for axes, picture in zip(grid.flat, pictures, strict=False):
        axes.imshow(mmcv.imread(str(picture), channel_order='rgb'))
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
    parser.add_argument('--work-dir', help='default: work_dirs/demo, or work_dirs/demo-seg')
    parser.add_argument('--data-root', default='data/demo', help='default: data/demo')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='change settings of the config, as in randomness.seed=1',
    )
    return parser.parse_args()


def prepare(args: argparse.Namespace, task: Task) -> Config:
    """Make the data unless there is some, and read the config."""
    config = find_config(args.family, task.head)
    settings = stored_settings(Path(args.data_root))
    if settings is None or not is_complete(Path(args.data_root), settings):
        print(f'Making the demo data in {args.data_root}', flush=True)
        make_demo_data(args.data_root)
    cfg = launch.load_config(str(config), {'data_root': args.data_root, **args.cfg_options})
    cfg.work_dir = args.work_dir or task.work_dir
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
    print(f'Training {cfg.filename} for {cfg.train_cfg.max_epochs} epochs', flush=True)
    runner = train(cfg)

    work_dir = Path(cfg.work_dir)
    rows = read_log(runner)
    draw_curves(rows, task, work_dir / 'curves.png')
    with quiet():
        pictures = draw_predictions(runner, work_dir / 'predictions')
    draw_grid(pictures, work_dir / 'predictions.png')

    final = next(row for row in reversed(rows) if set(task.metrics.values()) <= set(row))
    print(f'\nOn {len(runner.val_dataloader.dataset)} held-out images, in percent:')
    for name, key in task.metrics.items():
        print(f'  {name:<15}{task.percent * final[key]:6.1f}')
    print(f'{(time.time() - start) / 60:.1f} minutes. In {work_dir}:')
    for name, what in {
        'predictions.png': 'ground truth beside predictions (one by one in predictions/)',
        'curves.png': 'loss and accuracy while it trained',
        f'epoch_{runner.epoch}.pth': 'the checkpoint, which holds its config too',
        f'{runner.timestamp}/': "mmengine's log",
    }.items():
        print(f'  {name:<19}{what}')


if __name__ == '__main__':
    main()
