"""What is local on a map, in slices of the map that stay in the cache of a CPU.

The hidden layer of an MLP over the channels of a large map is written to memory and read
back several times over, which on a CPU costs more than its matrix products. So a large map
goes through such a function in slices, and a training step keeps only what goes in, and
computes the rest of a slice once more in the backward pass. Small maps, other devices, and
graphs that are traced to hold for other sizes take the function as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

SLICE = 2**20  # numbers in the widest tensor of a slice: 4 MiB in float32


def by_token(f: Callable[..., Tensor], xs: Tensor | tuple[Tensor, ...], width: int) -> Tensor:
    """``f(*xs)`` for a function of each token by itself, such as an MLP over channels.

    Args:
        f: From tokens (..., C_i) to tokens, or to a tuple of such.
        xs: A map (..., C_i), or a tuple of maps of equal size.
        width: Channels of the widest tensor in ``f``.
    """
    xs = xs if isinstance(xs, tuple) else (xs,)
    size = xs[0].shape[:-1]
    step = SLICE // width
    if not _is_large(xs[0], step):
        return f(*xs)
    slices = zip(*(x.reshape(-1, x.shape[-1]).split(step) for x in xs), strict=True)
    outs = _map(f, slices)
    if isinstance(outs[0], tuple):
        return tuple(torch.cat(out).unflatten(0, size) for out in zip(*outs, strict=True))
    return torch.cat(outs).unflatten(0, size)


def by_band(f: Callable[[Tensor], Tensor], x: Tensor, width: int, rows: int) -> Tensor:
    """``f(x)`` for a function of each band of a map by itself.

    Args:
        f: From a map (B, H, W, C) to one of the same height.
        x: A map (B, H, W, C).
        width: Channels of the widest tensor in ``f``.
        rows: Height of a band; the last one may be lower.
    """
    step = SLICE // width
    if not _is_large(x, step):
        return f(x)
    bands = max(step // (x.shape[2] * rows), 1)
    images = [torch.cat(_map(f, zip(y.split(bands * rows, 1))), 1) for y in x.split(1)]
    return torch.cat(images) if len(images) > 1 else images[0]


def _is_large(x: Tensor, step: int) -> bool:
    tracing = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return x.device.type == 'cpu' and not tracing and x[..., 0].numel() > 3 * step


def _map(f: Callable[..., Tensor], slices: Iterable[tuple[Tensor, ...]]) -> list[Tensor]:
    if not torch.is_grad_enabled():
        return [f(*s) for s in slices]
    return [checkpoint(f, *s, use_reentrant=False, preserve_rng_state=False) for s in slices]
