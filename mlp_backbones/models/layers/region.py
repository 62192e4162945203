"""Where the images of a batch lie on a map.

A detector pads the images of a batch to one canvas. Their *valid sizes* are those before that, as
(height, width), each image in the top left corner of the canvas. They are data: a mask and
resampling matrices come from them by arithmetic, so that every batch runs through the same
operators, and each image has the features that it has alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import NamedTuple

import torch
from torch import Tensor

from .resampling import Matrices, make_matrices, resampling_matrices
from .tracing import is_recording

Sizes = Tensor | Sequence[tuple[int, int]] | None  # in pixels; None: all images fill the canvas


class Region(NamedTuple):
    """Where the images of a batch lie on a map of H x W tokens.

    Args:
        size: (H, W).
        sizes: Height and width of each image in tokens, (B, 2); None if all fill the map.
        mask: Which tokens belong to an image, (B, H, W, 1); None if all do.
        down: D of the rows and the columns, to a grid of side g: (B, g, H) and (B, g, W), zero
            beyond each image; of batch 1 if all images fill the map. None: the identity.
        up: U of both, from that grid: (B, H, g) and (B, W, g).
    """

    size: tuple[int, int]
    sizes: Tensor | None = None
    mask: Tensor | None = None
    down: Matrices = (None, None)
    up: Matrices = (None, None)

    def rows(self, image: int, top: int, bottom: int) -> Region:
        """One image from row ``top`` to before ``bottom``, for what does not resample."""
        size = (min(bottom, self.size[0]) - top, self.size[1])
        if self.sizes is None:
            return Region(size)
        sizes = self.sizes[image : image + 1] - self.sizes.new_tensor([top, 0])
        return Region(size, sizes.clamp(min=0), self.mask[image : image + 1, top:bottom])


def make_region(
    x: Tensor,
    sizes: Tensor | None = None,
    grid: int | None = None,
    interpolation: str = 'bilinear',
) -> Region:
    """The region of images of ``sizes`` on the map ``x``.

    Args:
        x: Tokens (B, H, W, C).
        sizes: Height and width of each image in tokens, (B, 2); None if all fill the map.
        grid: Side g of the grid that the matrices lead to; None for no matrices.
        interpolation: 'bilinear' or 'bicubic'.
    """
    h, w = x.shape[1:3]
    down = up = (None, None)
    if grid is not None:
        pairs = [
            resampling_matrices(n, grid, interpolation, x)
            if sizes is None
            else make_matrices(sizes[:, axis, None, None], n, grid, interpolation, x)
            for axis, n in enumerate((h, w))
        ]
        down, up = zip(*pairs, strict=True)
    mask = None if sizes is None else valid_mask(sizes, h, w)[..., None]
    return Region((h, w), sizes, mask, down, up)


def valid_mask(sizes: Tensor, h: int, w: int) -> Tensor:
    """Which positions of an h x w canvas belong to images of ``sizes`` (B, 2): (B, h, w)."""
    rows = torch.arange(h, device=sizes.device) < sizes[:, :1]
    columns = torch.arange(w, device=sizes.device) < sizes[:, 1:]
    return rows[:, :, None] & columns[:, None, :]


def shrink(sizes: Tensor | None, stride: int) -> Tensor | None:
    """The valid sizes of a map of which each token covers ``stride`` x ``stride``."""
    return None if sizes is None else (sizes + (stride - 1)) // stride


def keep_valid(x: Tensor, region: Region | None) -> Tensor:
    """Tokens (B, H, W, C) with zeros beyond each image."""
    return x if region is None or region.mask is None else x * region.mask


def check_valid_sizes(sizes: Sizes, x: Tensor) -> Tensor | None:
    """``sizes`` as a tensor (B, 2), or None if all of the images (B, C, H, W) fill x.

    Sizes that are on a GPU, or in a program that is recorded, are data: they are not read.

    Raises:
        ValueError: unless there is a size for every image, from 1 x 1 to H x W.
    """
    if sizes is None:
        return None
    if isinstance(sizes, Tensor) and (is_recording() or sizes.device.type != 'cpu'):
        if sizes.dim() != 2 or sizes.is_floating_point() or sizes.dtype == torch.bool:
            raise _bad_sizes(f'a {sizes.dtype} tensor of shape {tuple(sizes.shape)}', x)
        if not is_recording() and sizes.shape != (x.shape[0], 2):
            raise _bad_sizes(f'a tensor of shape {tuple(sizes.shape)}', x)
        return sizes.to(x.device)
    canvas = tuple(x.shape[2:])
    given = sizes.tolist() if isinstance(sizes, Tensor) else sizes
    try:
        numbers = [(index(h), index(w)) for h, w in given]
        fits = all(1 <= h <= canvas[0] and 1 <= w <= canvas[1] for h, w in numbers)
    except (TypeError, ValueError):
        numbers, fits = [], False
    if len(numbers) != x.shape[0] or not fits:
        raise _bad_sizes(given, x)
    if all(size == canvas for size in numbers):
        return None
    return torch.tensor(numbers).to(x.device, non_blocking=True)


def _bad_sizes(given, x: Tensor) -> ValueError:
    return ValueError(
        f'valid_sizes={given} must be one (height, width) for each of the {x.shape[0]} images, '
        f'integers from (1, 1) to the canvas, {tuple(x.shape[2:])}. They are the argument of that '
        'name or, from a data preprocessor, the img_shape of the data samples.'
    )
