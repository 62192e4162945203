"""Resampling of one axis as a matrix, and of a token map as two of them.

A token-mixing weight K belongs to one g x g grid. On an H x W map it becomes
``K' = U K D`` with ``D = R(H->g) (x) R(W->g)`` and ``U = R(g->H) (x) R(g->W)``:
the separable interpolation of the weight's four axes, scaled so that constants
and row sums are kept. K' is never formed: ``K' x = U (K (D x))``.
See docs/design.md, section 2.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from .tracing import is_dynamo, is_plain

# The support of each kernel reaches `radius` source pixels to both sides.
RADIUS = {'bilinear': 1, 'bicubic': 2}


def check_interpolation(interpolation: str) -> str:
    """Return ``interpolation``, or raise ValueError if it names no kernel."""
    if interpolation not in RADIUS:
        raise ValueError(
            f'interpolation={interpolation!r} is unknown; choose one of '
            f'{", ".join(map(repr, RADIUS))}.'
        )
    return interpolation


# --- the matrix -------------------------------------------------------------------------------
# Written for numpy and torch alike: lengths that are numbers give a constant, made by numpy;
# lengths that are data, one for each image of a batch, give a tensor, without a branch on them.


def _kernel(x, interpolation: str):
    """Interpolation kernel at the distances ``x``, in source pixels."""
    x = abs(x)
    if interpolation == 'bilinear':
        return (1 - x) * (x < 1)
    a = -0.75  # Keys' cubic convolution kernel, with the parameter of torch and OpenCV
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return near * (x <= 1) + far * ((x > 1) & (x < 2))


def _upward(n_in, n_out, size: tuple[int, int], interpolation: str, arange: Callable, one):
    """Interpolation with half-pixel centres and a repeated border, for n_out >= n_in."""
    radius = RADIUS[interpolation]
    i, k, taps = arange(size[0])[:, None], arange(size[1]), arange(2 * radius) + 1 - radius
    # The source position (i + 1/2) n_in / n_out - 1/2: integers and a remainder, so exact.
    position, unit = (2 * i + 1) * n_in - n_out, 2 * n_out
    below = position // unit
    remainder = (position - below * unit) * one / unit
    weight = _kernel(remainder - taps, interpolation)  # (..., n_out, 2 radius)
    source = (below + taps).clip(max=n_in - 1).clip(min=0)  # beyond the border: the border
    matrix = (weight[..., None] * (source[..., None] == k)).sum(-2)
    return matrix * (i < n_out)


def _adjoint(matrix):
    """The transpose with rows scaled to sum to 1; rows of zeros stay so."""
    transposed = matrix.swapaxes(-1, -2)
    total = transposed.sum(-1)[..., None]
    return transposed / (total + (total == 0))


def build_resampling_matrix(n_in: int, n_out: int, interpolation: str = 'bilinear') -> Tensor:
    """The matrix R(n_in -> n_out) that resamples one axis, (n_out, n_in) in float64.

    Upwards it is the usual interpolation with half-pixel centres and a repeated
    border, equal to ``F.interpolate(..., align_corners=False)``. Downwards it is
    the transpose of the upward matrix with rows scaled to sum to 1 (the normalised
    adjoint), which averages over all inputs and so does not alias. R(n -> n) is
    the identity; every row sums to 1, so constants are kept.

    Args:
        n_in: Length of the axis, at least 1.
        n_out: New length of the axis, at least 1.
        interpolation: 'bilinear' or 'bicubic'.
    """
    return torch.from_numpy(_constant(n_in, n_out, interpolation)).contiguous()


def batch_resampling_matrices(
    n: int | Tensor,
    g: int | Tensor,
    size: tuple[int, int],
    interpolation: str,
    like: Tensor,
) -> tuple[Tensor, Tensor]:
    """R(n -> g) and R(g -> n) of every image of a batch, zero beyond its lengths.

    Args:
        n: Length of the axis, or a tensor of lengths (..., 1, 1).
        g: Another length, or a tensor of lengths (..., 1, 1).
        size: The largest n and g that can be, (N, G).
        interpolation: 'bilinear' or 'bicubic'.
        like: Gives the dtype and the device.

    Returns:
        (..., G, N) and (..., N, G).
    """
    arange = partial(torch.arange, device=like.device)
    one = torch.ones((), dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
    to_g = _upward(n, g, size[::-1], interpolation, arange, one)
    to_n = _upward(g, n, size, interpolation, arange, one)
    down = torch.where(g >= n, to_g, _adjoint(to_n))
    up = torch.where(n >= g, to_n, _adjoint(to_g))
    return down.to(like.dtype), up.to(like.dtype)


@lru_cache(maxsize=4096)
def _constant(n_in: int, n_out: int, interpolation: str) -> np.ndarray:
    if n_out < n_in:
        return _adjoint(_constant(n_out, n_in, interpolation))
    return _upward(n_in, n_out, (n_out, n_in), interpolation, np.arange, 1.0)


@lru_cache(maxsize=4096)
def _cached(
    n_in: int, n_out: int, interpolation: str, dtype: torch.dtype, device: torch.device
) -> Tensor:
    # An inference tensor in the cache could not be used by a later training step.
    with torch.inference_mode(False), torch.no_grad():
        return build_resampling_matrix(n_in, n_out, interpolation).to(dtype).to(device)


def resampling_matrix(n_in: int, n_out: int, interpolation: str, like: Tensor) -> Tensor:
    """R(n_in -> n_out) in the dtype and on the device of ``like``, (n_out, n_in).

    Cached in eager mode. An exported program has it as a constant, or for a symbolic length the
    arithmetic that makes it, as compiled code has.
    """
    if is_dynamo() or isinstance(n_in, torch.SymInt) or isinstance(n_out, torch.SymInt):
        lengths = (torch.full((1, 1), n, device=like.device) for n in (n_in, n_out))
        return batch_resampling_matrices(*lengths, (n_in, n_out), interpolation, like)[0]
    if not is_plain(like):
        matrix = _constant(n_in, n_out, interpolation).tolist()
        return torch.tensor(matrix, dtype=like.dtype, device=like.device)
    return _cached(n_in, n_out, interpolation, like.dtype, like.device)


# --- its use ----------------------------------------------------------------------------------


def resample(x: Tensor, size: tuple[int, int], interpolation: str = 'bilinear') -> Tensor:
    """Resample a channels-last token map: ``(R_h (x) R_w) x``.

    Args:
        x: Tokens (B, H, W, C).
        size: (H', W').
        interpolation: 'bilinear' or 'bicubic'.

    Returns:
        Tokens (B, H', W', C); ``x`` itself where the size stays.
    """
    return resample_by(x, *resampling_matrices(x.shape[1:3], size, interpolation, x))


def resampling_matrices(
    size: tuple[int, int], new_size: tuple[int, int], interpolation: str, like: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """The matrices of the rows and of the columns; None where the size stays."""
    rows, columns = (
        None if type(n) is type(m) and n == m else resampling_matrix(n, m, interpolation, like)
        for n, m in zip(map(known, size), map(known, new_size), strict=True)
    )
    return rows, columns


def known(length: int | Tensor) -> int:
    """A length as a number, which torch.jit.trace has as a tensor; symbols stay symbols."""
    return int(length) if isinstance(length, Tensor) else length


def resample_by(x: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    """Tokens (B, H, W, C) -> (B, H', W', C) by matrices (H', H) and (W', W), or one such for
    each image, (B, H', H) and (B, W', W). None is the identity.
    """
    b, h, w, c = x.shape
    # the smaller intermediate first: shrink along H before W, grow W before H
    grows = rows is not None and isinstance(h, int) and rows.shape[-2] > h
    for axis in (1, 0) if grows else (0, 1):
        if axis == 0 and rows is not None:  # (H', H) @ (B, H, W * C)
            x = torch.bmm(rows.expand(b, -1, -1), x.reshape(b, h, -1))
            h = rows.shape[-2]
        elif axis == 1 and columns is not None:  # (W', W) @ (B * H, W, C)
            of_rows = columns.expand(b, -1, -1)[:, None].expand(-1, h, -1, -1)
            x = torch.bmm(of_rows.reshape(b * h, *columns.shape[-2:]), x.reshape(b * h, w, c))
            w = columns.shape[-2]
        x = x.view(b, h, w, c)
    return x
