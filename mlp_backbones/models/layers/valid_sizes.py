"""The sizes of images on their way from a data preprocessor to a backbone.

A detector hands its backbone a tensor and nothing else, so the sizes travel on it, as the
attribute ``valid_sizes``. Whatever makes another tensor of it, such as a cast, loses them; a
warning says so, once.
"""

from __future__ import annotations

import logging
import weakref

import torch
from mmengine.logging import print_log
from torch import Tensor

from .tracing import is_recording

_on_the_way: list[weakref.ref] = []  # the batch whose sizes no backbone has read yet
_told: list[str] = []


def leave_sizes(batch: Tensor, sizes: Tensor) -> None:
    """Leave the sizes (B, 2) of the images on their batch (B, C, H, W)."""
    batch.valid_sizes = sizes
    _on_the_way[:] = [weakref.ref(batch)]


def read_sizes(x: Tensor) -> Tensor | None:
    """The sizes that are on ``x``, if any. Warns once if they were left on another batch."""
    sizes = getattr(x, 'valid_sizes', None)
    if not is_recording() and _on_the_way:
        batch = _on_the_way.pop()()
        if sizes is None and batch is not None and batch is not x:
            _tell(batch, x)
    return sizes


def _tell(left: Tensor, arrived: Tensor) -> None:
    if _told:
        return
    cause = _cause(left, arrived)
    _told.append(cause)
    print_log(
        'The data preprocessor left the sizes of the images on its batch, but the backbone was '
        f'given another tensor, without them: {cause} So it treats padding as part of the images. '
        'Pass the sizes on, as in y.valid_sizes = x.valid_sizes, or give the backbone '
        'valid_sizes=; see docs/resolution.md.',
        logger='current',
        level=logging.WARNING,
    )


def _cause(left: Tensor, arrived: Tensor) -> str:
    """What has happened to a batch on its way."""
    if left.shape != arrived.shape:
        return f'one of shape {tuple(arrived.shape)} for one of {tuple(left.shape)}.'
    if left.dtype != arrived.dtype:
        return f'a cast from {left.dtype} to {arrived.dtype}, by the model or what wraps it.'
    if left.device != arrived.device:
        return f'a copy from {left.device} to {arrived.device}.'
    if left.stride() != arrived.stride():
        return 'a copy in another memory format.'
    if torch.equal(left, arrived):
        return 'a copy of the same values.'
    return 'one of other values and the same shape.'
