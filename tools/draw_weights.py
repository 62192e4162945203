r"""Draw how the weights of docs/weights.md were trained, and what they are worth.

    python tools/draw_weights.py --runs work_dirs/*_nano_tiny_imagenet --out docs/images
    python tools/draw_weights.py --study study.csv --out docs/images

The first draws weights_curves.png, losses and accuracy of trainings by configs/pretrain. The
second times the backbones of tools/resolution_study.py, in turns, for one image of 360 x 480 on
one thread, batch norms folded, prints milliseconds, and draws weights_transfer.png, mIoU against
them, from scratch and pre-trained.
"""

import argparse
import statistics
import sys
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import torch
from benchmark import Setting, make_step, take_turns
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator
from mmcv.cnn import fuse_conv_bn
from mmengine.registry import MODELS, init_default_scope
from release_weights import read_log
from resolution_study import (
    DEFAULTS,
    MULTI_SCALE,
    PRETRAINED,
    ROWS,
    read_results,
    summarise,
)

from mlp_backbones.models.backbones.base import Backbone

SIZE = (360, 480)
MARKERS = 'osDv^<>'


def name_of(run: Path) -> str:
    """The row of the study whose backbone a training is of."""
    config = next(run.glob('*.py')).stem
    return next(row for row, name in DEFAULTS.items() if config.startswith(f'{name}_nano'))


def draw_curves(runs: list[Path], file: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout='constrained')
    for run in sorted(runs, key=lambda run: list(DEFAULTS).index(name_of(run))):
        rows = read_log(run)
        iterations = {row['step']: row['loss'] for row in rows if 'loss' in row}
        top1 = {row['step']: row['accuracy/top1'] for row in rows if 'accuracy/top1' in row}
        steps = sorted(iterations)
        smooth = [
            statistics.mean(iterations[s] for s in steps[max(i - 1, 0) : i + 2])
            for i in range(len(steps))
        ]
        left.plot(steps, smooth, label=name_of(run), linewidth=1)
        right.plot(*zip(*sorted(top1.items()), strict=True), marker='o', label=name_of(run))
    left.set(xlabel='iteration', title='training loss (label smoothing 0.1)')
    right.set(xlabel='epoch', title='top-1 accuracy on 10,000 held-out images, %')
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    right.legend(fontsize=8)
    figure.savefig(file, dpi=100)


def milliseconds(rounds: int) -> dict[str, float]:
    """Median time of each backbone for one image, on one thread."""
    init_default_scope('mmseg')
    torch.set_num_threads(1)
    models = [MODELS.build(ROWS[row]) for row in DEFAULTS]
    for model in models:
        model.eval()
        model.switch_to_deploy() if isinstance(model, Backbone) else fuse_conv_bn(model)
    steps = [make_step(model, Setting(SIZE)) for model in models]
    times = take_turns(steps, rounds)
    return {r: 1e3 * statistics.median(t) for r, t in zip(DEFAULTS, times, strict=True)}


def draw_transfer(study: Path, rounds: int, file: Path) -> None:
    table = summarise(read_results(study))
    times = milliseconds(rounds)
    figure, axes = plt.subplots(figsize=(7.5, 5), layout='constrained')
    for i, (row, time) in enumerate(times.items()):
        print(f'{row:<28}{time:7.1f} ms')
        scores = [
            table[name]['mean'].mean() if name in table else None
            for name in (row + MULTI_SCALE, row + MULTI_SCALE + PRETRAINED)
        ]
        for score, filled in zip(scores, (False, True), strict=True):
            if score is not None:
                face = f'C{i}' if filled else 'white'
                style = dict(marker=MARKERS[i], color=face, edgecolor=f'C{i}', alpha=0.8)
                axes.scatter(time, score, s=60, zorder=3, **style)
        known = [score for score in scores if score is not None]
        axes.plot([time] * len(known), known, color=f'C{i}', linewidth=1)
        if known:
            axes.plot([], MARKERS[i], color=f'C{i}', label=row)  # what the legend shows
    axes.set(
        xlabel=f'milliseconds for one image of {SIZE[0]} x {SIZE[1]}, one thread',
        ylabel='mIoU, %: mean of five scales',
        title='CamVid: from scratch (open) and from our weights (filled)',
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--runs', type=Path, nargs='+', default=[], help='work dirs of trainings')
    parser.add_argument('--study', type=Path, help='CSV file of tools/resolution_study.py')
    parser.add_argument('--rounds', type=int, default=21, help='of the timings (default: 21)')
    parser.add_argument('--out', type=Path, default=Path('.'), help='folder for the pictures')
    args = parser.parse_args()
    if not args.out.is_dir():
        sys.exit(f'draw_weights.py: there is no folder {args.out}')
    if args.runs:
        draw_curves(args.runs, args.out / 'weights_curves.png')
    if args.study:
        draw_transfer(args.study, args.rounds, args.out / 'weights_transfer.png')


if __name__ == '__main__':
    main()
