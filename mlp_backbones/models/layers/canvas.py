"""Images of different sizes on one canvas: what mixes tokens sees each image alone.

A detector pads the images of a batch to one size. The *valid sizes* are those of the images
before that, as (height, width), each image in the top left corner of its canvas. They are data:
from them come masks and matrices, so that every batch runs through the same operators.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import NamedTuple

import torch
from torch import Tensor

from .resampling import batch_resampling_matrices
from .tracing import is_compiling

Sizes = Tensor | Sequence[tuple[int, int]] | None  # in pixels; None: all images fill the canvas


class Canvas(NamedTuple):
    """The images of a batch on one canvas of H x W tokens, for the blocks of a stage.

    Args:
        sizes: Height and width of each image, in tokens, (B, 2).
        mask: Which tokens belong to an image, (B, H, W, 1).
        down: D of each image, to the grid of the stage: (B, g, H) for the rows and (B, g, W)
            for the columns, zero beyond the image. None where no block resamples.
        up: U of each image, from that grid: (B, H, g) and (B, W, g).
    """

    sizes: Tensor
    mask: Tensor
    down: tuple[Tensor, Tensor] | None = None
    up: tuple[Tensor, Tensor] | None = None

    def crop(self, image: int, top: int, rows: int) -> Canvas:
        """One image's rows from ``top`` on, for blocks that do not resample."""
        heights, widths = self.sizes[image : image + 1].split(1, dim=1)
        heights = (heights - top).clamp(0, rows)
        mask = self.mask[image : image + 1, top : top + rows]
        return Canvas(torch.cat([heights, widths], 1), mask)


def make_canvas(
    sizes: Tensor | None, x: Tensor, grid: int | None = None, interpolation: str = 'bilinear'
) -> Canvas | None:
    """The canvas of images of ``sizes`` in tokens; None if they fill it.

    Args:
        sizes: (B, 2), or None.
        x: Tokens (B, H, W, C).
        grid: Side of the grid that blocks resample to; None if none does.
        interpolation: 'bilinear' or 'bicubic'.
    """
    if sizes is None:
        return None
    _, h, w, _ = x.shape
    mask = valid_mask(sizes, h, w)[..., None]
    if grid is None:
        return Canvas(sizes, mask)
    n = sizes.t()[..., None, None]  # (2, B, 1, 1): the lengths of both axes
    longest = h + w  # enough for both, and no comparison: they may be symbols
    down, up = batch_resampling_matrices(n, grid, (longest, grid), interpolation, x)
    return Canvas(sizes, mask, (down[0, ..., :h], down[1, ..., :w]), (up[0, :, :h], up[1, :, :w]))


def valid_mask(sizes: Tensor, h: int, w: int) -> Tensor:
    """Which positions of an h x w canvas belong to images of ``sizes`` (B, 2): (B, h, w)."""
    rows = torch.arange(h, device=sizes.device) < sizes[:, :1]
    columns = torch.arange(w, device=sizes.device) < sizes[:, 1:]
    return rows[:, :, None] & columns[:, None, :]


def shrink(sizes: Tensor | None, stride: int) -> Tensor | None:
    """The valid sizes of a map of which each token covers ``stride`` x ``stride``."""
    return None if sizes is None else (sizes + (stride - 1)) // stride


def keep_valid(x: Tensor, canvas: Canvas | None) -> Tensor:
    """Tokens (B, H, W, C) with zeros beyond each image."""
    return x if canvas is None else x * canvas.mask


def key_mask(mask: Tensor | None) -> Tensor | None:
    """Which keys the queries of a part attend to, (B, P, 1, N), from its tokens (B, P, N).

    A part without a token of an image attends to all: its results are finite, and not used.
    """
    return None if mask is None else (mask | ~mask.any(-1, keepdim=True))[:, :, None]


def check_valid_sizes(sizes: Sizes, x: Tensor) -> Tensor | None:
    """``sizes`` as a tensor (B, 2), or None if all of the images (B, C, H, W) fill x.

    Sizes that are on a GPU, or that a compiler sees, are data: they are not read.

    Raises:
        ValueError: unless there is a size for every image, from 1 x 1 to H x W.
    """
    if sizes is None:
        return None
    if isinstance(sizes, Tensor) and (is_compiling() or sizes.device.type != 'cpu'):
        if tuple(sizes.shape) != (len(x), 2) or sizes.is_floating_point():
            raise _bad_sizes(f'a {sizes.dtype} tensor of shape {tuple(sizes.shape)}', x)
        return sizes.to(x.device)
    canvas = tuple(x.shape[2:])
    given = sizes.tolist() if isinstance(sizes, Tensor) else sizes
    try:
        numbers = [(index(h), index(w)) for h, w in given]
        fits = all(1 <= h <= canvas[0] and 1 <= w <= canvas[1] for h, w in numbers)
    except (TypeError, ValueError):
        numbers, fits = [], False
    if len(numbers) != len(x) or not fits:
        raise _bad_sizes(given, x)
    if all(size == canvas for size in numbers):
        return None
    return torch.tensor(numbers).to(x.device, non_blocking=True)


def _bad_sizes(given, x: Tensor) -> ValueError:
    return ValueError(
        f'valid_sizes={given} must be one (height, width) for each of the {len(x)} images, '
        f'integers from (1, 1) to the canvas, {tuple(x.shape[2:])}. They are the argument of that '
        'name or, from a data preprocessor, the img_shape of the data samples.'
    )
