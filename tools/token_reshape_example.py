"""Both token-reshaping layers learn a fixed homography: the bird's-eye view of a ground plane.

A camera 6 m above a textured plane sees it in perspective, 24 x 32 pixels. The layers turn the
image into the plane seen from above, 24 x 16 pixels of 0.5 m; nobody tells them the geometry.
Scenes are painted on the spot, new ones in every step. The error is the mean squared error on
held-out scenes over the variance of the target: 1 is what a constant image reaches.

    python tools/token_reshape_example.py --seed 0 1 2 --out work_dirs/token_reshape

Writes two pictures into the folder and prints a table.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import trange

from mlp_backbones.models.necks import CrossAttentionReshape, MLPReshape

matplotlib.use('Agg')
import matplotlib.pyplot as plt

CAMERA_SIZE = (24, 32)  # pixels, height and width
VIEW_SIZE = (24, 16)
GROUND_SIZE = 128  # pixels a side of the painted plane
BATCH_SIZE = 16
HELD_OUT = 128
EVAL_INTERVAL = 10


def camera_homography(height: float = 6.0, pitch: float = 38.0, focal: float = 28.0) -> np.ndarray:
    """The matrix that takes (x right, z ahead, 1) on the ground, in metres, to camera pixels.

    Args:
        height: Of the camera above the ground, in metres.
        pitch: Degrees by which the camera looks down.
        focal: Focal length in pixels.
    """
    sin, cos = math.sin(math.radians(pitch)), math.cos(math.radians(pitch))
    intrinsics = [[focal, 0, CAMERA_SIZE[1] / 2], [0, focal, CAMERA_SIZE[0] / 2], [0, 0, 1]]
    return np.array(intrinsics) @ [[1, 0, 0], [0, -sin, height * cos], [0, cos, height * sin]]


def map_homography(size: tuple[int, int], left: float, far: float, metre: float) -> np.ndarray:
    """The matrix from the ground to the pixels of a map with `metre` pixels a metre."""
    return np.array([[metre, 0, -left * metre], [0, -metre, far * metre], [0, 0, 1]])


CAMERA = camera_homography()
VIEW = map_homography(VIEW_SIZE, left=-4, far=16, metre=2)  # 8 m wide, from 4 m to 16 m ahead
GROUND = map_homography((GROUND_SIZE, GROUND_SIZE), left=-16, far=32, metre=4)
CENTRE = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])  # OpenCV counts from pixel centres


def warp(
    image: np.ndarray,
    source: np.ndarray,
    target: np.ndarray,
    size: tuple[int, int],
    oversample: int = 4,
) -> np.ndarray:
    """See an image (H, W, 3) of the ground with homography `source` through `target`."""
    h, w = size
    matrix = (
        CENTRE @ np.diag([oversample, oversample, 1]) @ target @ np.linalg.inv(CENTRE @ source)
    )
    large = cv2.warpPerspective(
        image,
        matrix,
        (w * oversample, h * oversample),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    return cv2.resize(large, (w, h), interpolation=cv2.INTER_AREA)


def paint_ground(rng: np.random.Generator) -> np.ndarray:
    """Clouds of colour under discs and squares, values about -1 to 1; (side, side, 3)."""
    side = GROUND_SIZE
    ground = np.zeros((side, side, 3), np.float32)
    for cells in (8, 16, 32):
        clouds = rng.uniform(-0.5, 0.5, (cells, cells, 3)).astype(np.float32)
        ground += cv2.resize(clouds, (side, side), interpolation=cv2.INTER_CUBIC)
    for _ in range(30):
        x, y = (int(i) for i in rng.integers(0, side, 2))
        radius, colour = int(rng.integers(3, 10)), rng.uniform(-1, 1, 3).tolist()
        if rng.random() < 0.5:
            cv2.circle(ground, (x, y), radius, colour, thickness=-1)
        else:
            cv2.rectangle(ground, (x - radius, y - radius), (x + radius, y + radius), colour, -1)
    return ground


def make_scenes(number: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Camera images (B, 3, 24, 32) and views from above (B, 3, 24, 16)."""
    grounds = [paint_ground(rng) for _ in range(number)]
    return (
        to_batch([warp(g, GROUND, CAMERA, CAMERA_SIZE) for g in grounds]),
        to_batch([warp(g, GROUND, VIEW, VIEW_SIZE) for g in grounds]),
    )


def to_batch(images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def known_warp(images: Tensor) -> Tensor:
    """What bilinear sampling gives to somebody who knows the homography."""
    arrays = images.permute(0, 2, 3, 1).numpy()
    return to_batch([warp(image, CAMERA, VIEW, VIEW_SIZE, oversample=1) for image in arrays])


def mlp() -> nn.Module:
    return MLPReshape(CAMERA_SIZE, VIEW_SIZE)


def attention() -> nn.Module:
    return CrossAttentionReshape(3, CAMERA_SIZE, VIEW_SIZE)


def random_attention() -> nn.Module:
    layer = attention()
    for level in layer.levels:
        nn.init.normal_(level.queries)
        nn.init.normal_(level.positions)
    return layer


class Contestant(NamedTuple):
    build: Callable[[], nn.Module]
    lr: float  # the best of 0.001, 0.003, 0.01, 0.03 (MLP) and of 0.03, 0.1, 0.2 (attention)
    colour: str


CONTESTANTS = {
    'MLPReshape': Contestant(mlp, 0.01, 'tab:blue'),
    'CrossAttentionReshape': Contestant(attention, 0.1, 'tab:orange'),
    'the same, random start': Contestant(random_attention, 0.1, 'tab:gray'),
}


class Curve(NamedTuple):
    steps: list[int]
    seconds: list[float]  # of CPU time in the layer and its optimiser
    errors: list[float]  # held out

    def reaches(self, error: float) -> int | None:
        """The first step at which the error is that low, None where it never is."""
        return next((s for s, e in zip(self.steps, self.errors, strict=True) if e <= error), None)


def early(steps: int) -> int:
    """The step of the first row of the picture."""
    return steps // 6


def relative_error(prediction: Tensor, target: Tensor) -> float:
    return (F.mse_loss(prediction, target) / target.var(dim=0).mean()).item()


def train(
    contestant: Contestant, steps: int, seed: int, held_out: tuple[Tensor, Tensor], name: str
) -> tuple[Curve, list[Tensor]]:
    """Adam with cosine decay on `steps` batches that depend on nothing but the seed.

    Returns:
        The curve, and the held-out predictions early on and at the end.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 0])
    model = contestant.build()
    optimizer = torch.optim.Adam(model.parameters(), contestant.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    curve, seconds, snapshots = Curve([], [], []), 0.0, []
    for step in trange(steps + 1, desc=f'{name}, seed {seed}', leave=False, disable=None):
        if step % EVAL_INTERVAL == 0 or step in (early(steps), steps):
            with torch.no_grad():
                prediction = model(held_out[0])
            error = relative_error(prediction, held_out[1])
            for values, value in zip(curve, (step, seconds, error), strict=True):
                values.append(value)
        if step in (early(steps), steps):
            snapshots.append(prediction)
        if step == steps:
            return curve, snapshots
        images, views = make_scenes(BATCH_SIZE, rng)
        start = time.process_time()
        loss = F.mse_loss(model(images), views)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        seconds += time.process_time() - start


def plot_curves(curves: dict[str, list[Curve]], known: float, path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), sharey=True, layout='constrained')
    for name, runs in curves.items():
        for i, run in enumerate(runs):
            style = dict(color=CONTESTANTS[name].colour, lw=1.4, label=None if i else name)
            axes[0].plot(run.steps, run.errors, **style)
            axes[1].plot(run.seconds[1:], run.errors[1:], **style)
    for axis in axes:
        axis.axhline(known, color='black', lw=1, ls=':', label='bilinear warp, homography known')
        axis.grid(alpha=0.3)
    axes[0].set(yscale='log', xlabel=f'steps of {BATCH_SIZE} images', ylabel='held-out error')
    axes[1].set(xscale='log', xlabel='seconds of CPU time in the layer')
    axes[0].set_yticks([0.03, 0.1, 0.3, 1], ['0.03', '0.1', '0.3', '1'])
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def plot_predictions(columns: dict[str, list[Tensor]], rows: list[str], path: Path) -> None:
    """A column for each list of images (3, H, W), a row for each of their entries."""
    widths = [images[0].shape[2] for images in columns.values()]
    figure, axes = plt.subplots(
        len(rows),
        len(columns),
        figsize=(11, 2.5 * len(rows)),
        squeeze=False,
        width_ratios=widths,
        layout='constrained',
    )
    for column, (title, images) in zip(axes.T, columns.items(), strict=True):
        column[0].set_title(title, fontsize=10)
        for axis, image in zip(column, images, strict=True):
            axis.imshow(((image.permute(1, 2, 0) + 1.25) / 2.5).clamp(0, 1).numpy())
            axis.set(xticks=[], yticks=[])
    for axis, label in zip(axes[:, 0], rows, strict=True):
        axis.set_ylabel(label, fontsize=10)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def report(curves: dict[str, list[Curve]], known: float) -> str:
    """A table in Markdown; with several seeds, the mean and in brackets the range."""

    def cell(values: list, form: str) -> str:
        if None in values:
            return 'never' if set(values) == {None} else 'not every time'
        mean = format(sum(values) / len(values), form)
        low, high = format(min(values), form), format(max(values), form)
        return mean if low == high else f'{mean} ({low}-{high})'

    lines = [
        '| layer | lr | steps to error 0.2 | to 0.1 | to 0.05 | error at the end '
        '| CPU ms a step |',
        '|---|---|---|---|---|---|---|',
    ]
    for name, runs in curves.items():
        cells = [name, f'{CONTESTANTS[name].lr}']
        cells += [cell([run.reaches(error) for run in runs], '.0f') for error in (0.2, 0.1, 0.05)]
        cells += [
            cell([run.errors[-1] for run in runs], '.3f'),
            cell([1000 * run.seconds[-1] / run.steps[-1] for run in runs], '.1f'),
        ]
        lines.append(f'| {" | ".join(cells)} |')
    lines.append(f'| bilinear warp, homography known | | | | | {known:.3f} | |')
    return '\n'.join(lines)


def run(steps: int, seeds: list[int], out: Path) -> str:
    """Train everything, write the pictures, and return the table."""
    held_out = make_scenes(HELD_OUT, np.random.default_rng([0, 1]))
    images, views = held_out
    known = known_warp(images)
    known_error = relative_error(known, views)
    curves: dict[str, list[Curve]] = {}
    scenes = (0, 0, 1)
    shown = {'camera image': [images[i] for i in scenes]}
    for name, contestant in CONTESTANTS.items():
        runs = [train(contestant, steps, seed, held_out, name) for seed in seeds]
        curves[name] = [curve for curve, _ in runs]
        first, last = runs[0][1]
        title = name.replace('Attention', '-\nAttention').replace(', ', ',\n')
        shown[title] = [first[0], last[0], last[1]]
    shown['homography\nknown'] = [known[i] for i in scenes]
    shown['target'] = [views[i] for i in scenes]
    rows = [f'after {early(steps)} steps', f'after {steps} steps', f'after {steps} steps']
    out.mkdir(parents=True, exist_ok=True)
    plot_curves(curves, known_error, out / 'token_reshape_curves.png')
    plot_predictions(shown, rows, out / 'token_reshape_predictions.png')
    return report(curves, known_error)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Token reshaping learns a homography.')
    parser.add_argument('--steps', type=int, default=300, help='training steps of each layer')
    parser.add_argument('--seed', type=int, nargs='+', default=[0], help='one run for each')
    parser.add_argument(
        '--out', type=Path, default=Path('work_dirs/token_reshape'), help='folder for the pictures'
    )
    args = parser.parse_args()
    if args.steps < 1 or min(args.seed) < 0:
        parser.error('--steps must be at least 1 and --seed at least 0')
    return args


def main() -> None:
    args = parse_args()
    print(run(args.steps, args.seed, args.out))
    print(f'\nPictures: {args.out}')


if __name__ == '__main__':
    main()
