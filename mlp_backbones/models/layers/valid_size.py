"""Images of different sizes on one canvas: what mixes tokens sees each image alone.

A detector pads the images of a batch to one size. The *valid sizes* are those of the images
before that, as (height, width) in the unit of the map at hand, pixels or tokens: each image
lies in the top left corner of its canvas. None stands for images that fill it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from operator import index

import torch.nn.functional as F
from torch import Tensor

from .slices import join

Sizes = Sequence[tuple[int, int]] | None


def check_valid_sizes(valid: Sizes, x: Tensor) -> Sizes:
    """``valid`` as tuples of integers, or None if all of the images (B, C, H, W) fill x.

    Raises:
        ValueError: unless there is a size for every image, from 1 x 1 to H x W.
    """
    if valid is None:
        return None
    canvas = tuple(x.shape[2:])
    try:
        sizes = [(index(h), index(w)) for h, w in valid]
        fits = all(1 <= h <= canvas[0] and 1 <= w <= canvas[1] for h, w in sizes)
    except (TypeError, ValueError):
        sizes, fits = [], False
    if len(sizes) != len(x) or not fits:
        raise ValueError(
            f'valid_sizes={valid} must be one (height, width) for each of the {len(x)} images, '
            f'integers from (1, 1) to the canvas, {canvas}. They are the argument of that name '
            'or, from a data preprocessor, the img_shape of the data samples.'
        )
    return None if all(size == canvas for size in sizes) else sizes


def shrink(valid: Sizes, stride: int) -> Sizes:
    """The valid sizes of a map of which each token covers ``stride`` x ``stride``."""
    return valid and [(-(-h // stride), -(-w // stride)) for h, w in valid]


def per_image(f: Callable[[Tensor], Tensor], x: Tensor, valid: Sizes) -> Tensor:
    """``f`` on the valid part of each image, with zeros around it.

    Args:
        f: A function of maps, (B, h, w, C) -> (B, h, w, C'), for any B, h and w.
        x: Tokens (B, H, W, C).
        valid: Sizes in tokens; neighbours of equal size share a call of ``f``.
    """
    if valid is None:
        return f(x)
    _, h, w, _ = x.shape
    runs = [(size, len(list(run))) for size, run in groupby(valid)]
    outs = [
        F.pad(f(images[:, :i, :j]), (0, 0, 0, w - j, 0, h - i))
        for images, ((i, j), _) in zip(x.split([n for _, n in runs]), runs, strict=True)
    ]
    return join(outs)


def zero_padding(x: Tensor, valid: Sizes) -> Tensor:
    """Tokens (B, H, W, C) with zeros beyond the valid size of each image."""
    return per_image(lambda image: image, x, valid)
