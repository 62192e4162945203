"""Group norm of one group: over a whole image and all channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .region import Region, keep_valid
from .slices import is_cpu_inference


class MapNorm(nn.GroupNorm):
    """``GroupNorm(1, dim)`` on tokens (B, H, W, dim), over those of each image and all channels.

    Where no sizes say which tokens are an image's, it is over the whole map, with the padding:
    as in other projects.

    Args:
        dim: Number of channels, the last axis of x.
        eps: What is added to the variance. Default: 1e-5.
    """

    def __init__(self, dim: int, eps: float = 1e-5):
        super().__init__(1, dim, eps)

    def forward(self, x: Tensor, region: Region | None = None) -> Tensor:
        whole = region is None or region.mask is None
        if whole and is_cpu_inference(self, x):  # fast; its backward pass may crash on a CPU
            return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        variance, mean = moments(wide) if whole else valid_moments(wide, region)
        rate = (variance + self.eps).rsqrt()
        normal = torch.addcmul(-mean * rate, wide, rate)
        return torch.addcmul(self.bias, normal, self.weight).to(self.weight.dtype)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Variance and mean of each map in x (B, H, W, C), both (B, 1, 1, 1)."""
    return torch.var_mean(x, (1, 2, 3), correction=0, keepdim=True)


def valid_moments(x: Tensor, region: Region) -> tuple[Tensor, Tensor]:
    """:func:`moments` of what belongs to each image."""
    count = x.shape[-1] * region.sizes.prod(1)[:, None, None, None]
    mean = keep_valid(x, region).sum((1, 2, 3), keepdim=True) / count
    squares = keep_valid((x - mean).square(), region)
    return squares.sum((1, 2, 3), keepdim=True) / count, mean


def norm_map(norm: nn.Module, x: Tensor, region: Region | None) -> Tensor:
    """``norm`` of tokens (B, H, W, C): of each by itself or, with MapNorm, of an image's."""
    return norm(x, region) if isinstance(norm, MapNorm) else norm(x)
