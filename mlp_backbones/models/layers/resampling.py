"""Resampling of one axis as a matrix, and of a token map as two of them.

A token-mixing weight K belongs to one g x g grid. On an H x W map it becomes
``K' = U K D`` with ``D = R(H->g) (x) R(W->g)`` and ``U = R(g->H) (x) R(g->W)``:
the separable interpolation of the weight's four axes, scaled so that constants
and row sums are kept. K' is never formed: ``K' x = U (K (D x))``.
See docs/design.md, section 2.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from .tracing import is_compiling, is_constant, is_plain, is_zero

# The support of each kernel reaches `radius` source pixels to both sides.
RADIUS = {'bilinear': 1, 'bicubic': 2}
Matrices = tuple[Tensor | None, Tensor | None]


def check_interpolation(interpolation: str) -> str:
    """Return ``interpolation``, or raise ValueError if it names no kernel."""
    if interpolation not in RADIUS:
        raise ValueError(
            f'interpolation={interpolation!r} is unknown; choose one of '
            f'{", ".join(map(repr, RADIUS))}.'
        )
    return interpolation


# --- the matrices -----------------------------------------------------------------------------


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
    n = torch.full((1, 1, 1), n_in)
    like = torch.empty(0, dtype=torch.float64)
    return make_matrices(n, n_in, n_out, interpolation, like)[0][0].contiguous()


def resampling_matrices(
    n: int, grid: int, interpolation: str, like: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """R(n -> grid), (1, grid, n), and R(grid -> n), (1, n, grid), of an axis that images fill.

    Made once for each n, also in a program that is recorded for this n alone, whose constants
    they are. One that is recorded for any n has the arithmetic that makes them. None for both is
    the identity, where n is known to be the grid.
    """
    if is_zero(n - grid):
        return None, None
    if is_constant(n) and (is_compiling() or is_plain(like)):
        matrix = constant_matrix if is_compiling() else cached_matrix
        return tuple(
            matrix(*lengths, interpolation, like.dtype, like.device)
            for lengths in ((n, grid), (grid, n))
        )
    tensor = isinstance(n, Tensor)  # as a length in a trace is, on the CPU
    length = n.to(like.device) if tensor else torch.full((1,), n, device=like.device)
    return make_matrices(length.reshape(1, 1, 1), n, grid, interpolation, like)


@torch.compiler.allow_in_graph
def constant_matrix(
    n_in: int, n_out: int, interpolation: str, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """R(n_in -> n_out), (1, n_out, n_in), as a constant of the program that is recorded."""
    with _disable_current_modes():
        values = cached_matrix(n_in, n_out, interpolation, dtype, torch.device('cpu')).tolist()
    return torch.tensor(values, dtype=dtype, device=device)


@lru_cache(maxsize=2048)
def cached_matrix(
    n_in: int, n_out: int, interpolation: str, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """R(n_in -> n_out), (1, n_out, n_in), made once."""
    # An inference tensor in the cache could not be used by a later training step.
    with _disable_current_modes(), torch.inference_mode(False), torch.no_grad():
        length = torch.full((1, 1, 1), n_in, device=device)
        like = torch.empty(0, dtype=dtype, device=device)
        return make_matrices(length, n_in, n_out, interpolation, like)[0]


def make_matrices(
    n: Tensor, longest: int, grid: int, interpolation: str, like: Tensor
) -> tuple[Tensor, Tensor]:
    """R(n -> grid) and R(grid -> n) of images of any lengths, without a branch on them.

    Args:
        n: The length of each image, (B, 1, 1), integers.
        longest: The length of the axis N, at least that of each image.
        grid: The other length g.
        interpolation: 'bilinear' or 'bicubic'.
        like: Gives the dtype and the device.

    Returns:
        (B, g, N) and (B, N, g), zero beyond each image.
    """
    to_grid = _upward(n, longest, grid, grid, interpolation, like)
    to_n = _upward(grid, grid, n, longest, interpolation, like)
    down = torch.where(n <= grid, to_grid, _adjoint(to_n))
    up = torch.where(n >= grid, to_n, _adjoint(to_grid))
    return down.to(like.dtype), up.to(like.dtype)


def _upward(
    n_in: int | Tensor,
    columns: int,
    n_out: int | Tensor,
    rows: int,
    interpolation: str,
    like: Tensor,
) -> Tensor:
    """Interpolation with half-pixel centres and a repeated border, for n_out >= n_in."""
    radius = RADIUS[interpolation]
    dtype = torch.promote_types(like.dtype, torch.float32)
    i = torch.arange(rows, device=like.device)[:, None]
    k = torch.arange(columns, device=like.device)
    taps = torch.arange(2 * radius, device=like.device) + 1 - radius
    # The source position (i + 1/2) n_in / n_out - 1/2, as an integer, `below`, and a remainder.
    # One unit is added and taken off again, so that no exporter divides a negative number.
    unit = 2 * n_out
    position = (2 * i + 1) * n_in - n_out + unit
    below = position // unit - 1
    remainder = (position % unit).to(dtype) / unit
    weight = _kernel(remainder - taps, interpolation)  # (..., rows, taps)
    source = torch.minimum((below + taps).clamp(min=0), 0 * i + n_in - 1)  # the border repeats
    matrix = (weight[..., None] * (source[..., None] == k)).sum(-2)
    return matrix * (i < n_out)


def _kernel(x: Tensor, interpolation: str) -> Tensor:
    """Interpolation kernel at the distances ``x``, in source pixels."""
    x = x.abs()
    if interpolation == 'bilinear':
        return (1 - x) * (x < 1)
    a = -0.75  # Keys' cubic convolution kernel, with the parameter of torch and OpenCV
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return near * (x <= 1) + far * ((x > 1) & (x < 2))


def _adjoint(matrix: Tensor) -> Tensor:
    """The transpose with rows scaled to sum to 1; rows of zeros stay so."""
    total = matrix.sum(-2)[..., None]
    return matrix.transpose(-1, -2) / (total + (total == 0))


# --- their use --------------------------------------------------------------------------------


def resample(x: Tensor, size: tuple[int, int], interpolation: str = 'bilinear') -> Tensor:
    """Resample a channels-last token map: ``(R_h (x) R_w) x``.

    Args:
        x: Tokens (B, H, W, C).
        size: (H', W').
        interpolation: 'bilinear' or 'bicubic'.

    Returns:
        Tokens (B, H', W', C); ``x`` itself where the size stays.
    """
    matrices = (
        resampling_matrices(n, m, interpolation, x)[0]
        for n, m in zip(x.shape[1:3], size, strict=True)
    )
    return resample_down(x, tuple(matrices))


def resample_down(x: Tensor, matrices: Matrices) -> Tensor:
    """The rows of (B, H, W, C), then the columns, which costs less where the map shrinks.

    Args:
        x: Tokens (B, H, W, C).
        matrices: (B, H', H) and (B, W', W), of batch 1 if they are those of all images; None is
            the identity.
    """
    return _columns(_rows(x, matrices[0]), matrices[1])


def resample_up(x: Tensor, matrices: Matrices) -> Tensor:
    """The columns of (B, H, W, C), then the rows, which costs less where the map grows."""
    return _rows(_columns(x, matrices[1]), matrices[0])


def _rows(x: Tensor, matrix: Tensor | None) -> Tensor:
    if matrix is None:
        return x
    return torch.matmul(matrix, x.flatten(2)).unflatten(2, (-1, x.shape[3]))


def _columns(x: Tensor, matrix: Tensor | None) -> Tensor:
    return x if matrix is None else torch.matmul(matrix[:, None], x)
