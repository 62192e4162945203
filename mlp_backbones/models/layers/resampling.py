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


def _kernel(x: Tensor, interpolation: str) -> Tensor:
    """Interpolation kernel at the distances ``x``, in source pixels."""
    x = x.abs()
    if interpolation == 'bilinear':
        return (1 - x).clamp(min=0)
    a = -0.75  # Keys' cubic convolution kernel, with the parameter of torch and OpenCV
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def build_resampling_matrix(
    n_in: int, n_out: int, interpolation: str = 'bilinear', device=None
) -> Tensor:
    """The matrix R(n_in -> n_out) that resamples one axis, in float64.

    Upwards it is the usual interpolation with half-pixel centres and a repeated
    border, equal to ``F.interpolate(..., align_corners=False)``. Downwards it is
    the transpose of the upward matrix with rows scaled to sum to 1 (the normalised
    adjoint), which averages over all inputs and so does not alias. R(n -> n) is
    the identity; every row sums to 1, so constants are kept.

    Args:
        n_in: Length of the axis, at least 1.
        n_out: New length of the axis, at least 1.
        interpolation: 'bilinear' or 'bicubic'.
        device: Where to make it.

    Returns:
        Tensor of shape (n_out, n_in), float64.
    """
    if n_out < n_in:
        adjoint = build_resampling_matrix(n_out, n_in, interpolation, device).t().contiguous()
        return adjoint / adjoint.sum(dim=1, keepdim=True)
    r = RADIUS[interpolation]
    centre = torch.arange(n_out, dtype=torch.float64, device=device) + 0.5
    source = centre * n_in / n_out - 0.5
    # taps reach over the border; what falls there belongs to the border pixel
    taps = torch.arange(-r, n_in + r, dtype=torch.float64, device=device)
    weight = _kernel(source[:, None] - taps[None, :], interpolation)  # (n_out, n_in + 2r)
    inside = torch.arange(-r, n_in + r, device=device).clamp(0, n_in - 1)
    matrix = weight.new_zeros(n_out, n_in)
    return matrix.index_add(1, inside, weight)


@lru_cache(maxsize=4096)
def _cached_matrix(
    n_in: int, n_out: int, interpolation: str, dtype: torch.dtype, device: torch.device
) -> Tensor:
    # An inference tensor in the cache could not be used by a later training step.
    with torch.inference_mode(False), torch.no_grad():
        return build_resampling_matrix(n_in, n_out, interpolation, device).to(dtype)


def resampling_matrix(n_in: int, n_out: int, interpolation: str, like: Tensor) -> Tensor:
    """R(n_in -> n_out) in the dtype and on the device of ``like``, (n_out, n_in).

    Cached per size, except while a compiler or a fake-tensor mode traces the call:
    what is made then must not outlive the trace.
    """
    if torch.compiler.is_compiling() or type(like) not in (Tensor, torch.nn.Parameter):
        return build_resampling_matrix(n_in, n_out, interpolation, like.device).to(like.dtype)
    return _cached_matrix(n_in, n_out, interpolation, like.dtype, like.device)


def resample(x: Tensor, size: tuple[int, int], interpolation: str = 'bilinear') -> Tensor:
    """Resample a channels-last token map: ``(R_h (x) R_w) x``.

    Args:
        x: Tokens (B, H, W, C).
        size: (H', W').
        interpolation: 'bilinear' or 'bicubic'.

    Returns:
        Tokens (B, H', W', C); ``x`` itself where the size stays.
    """
    _, h, w, _ = x.shape
    # the smaller intermediate first: shrink along H before W, grow W before H
    axes = (0, 1) if size[0] <= h else (1, 0)
    for axis in axes:
        x = _resample_axis(x, axis, size[axis], interpolation)
    return x


def _resample_axis(x: Tensor, axis: int, n_out: int, interpolation: str) -> Tensor:
    n_in = x.shape[1 + axis]
    if n_in == n_out:
        return x
    matrix = resampling_matrix(n_in, n_out, interpolation, x)
    b, h, w, c = x.shape
    if axis == 0:  # (n_out, H) @ (B, H, W*C)
        x = x.reshape(b, h, w * c)
    else:  # (n_out, W) @ (B*H, W, C)
        x = x.reshape(b * h, w, c)
    x = torch.bmm(matrix.expand(len(x), -1, -1), x)
    return x.view(b, n_out, w, c) if axis == 0 else x.view(b, h, n_out, c)
