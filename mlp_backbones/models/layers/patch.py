"""Patch embedding and patch merging for maps of any size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .region import Region, keep_valid, valid_mask
from .tracing import is_zero


def pad_to_multiple(x: Tensor, p: int, channels_last: bool = True) -> Tensor:
    """(B, H, W, C) or (B, C, H, W) with zeros at the bottom and right, up to multiples of p."""
    size = x.shape[1:3] if channels_last else x.shape[2:]
    # in the form that compilers of symbolic sizes simplify best
    rows, columns = ((n + p - 1) // p * p - n for n in size)
    if is_zero(rows) and is_zero(columns):
        return x
    return F.pad(x, (*(0, 0)[: 2 * channels_last], 0, columns, 0, rows))


class PatchEmbed(nn.Module):
    """Image to tokens: a linear layer on non-overlapping p x p patches, as a convolution.

    An image that p does not divide is padded with zeros at the bottom and right, and so
    is each image of ``sizes`` in pixels.

    Args:
        in_channels: Channels of the image.
        dim: Channels of the tokens.
        patch_size: Side p of a patch, in pixels.
        norm: A norm of the tokens; None for none.
    """

    def __init__(self, in_channels: int, dim: int, patch_size: int, norm: nn.Module | None = None):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, dim, patch_size, patch_size)
        self.norm = norm or nn.Identity()

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Images (B, C, H, W) -> tokens (B, ceil(H / p), ceil(W / p), dim)."""
        if sizes is not None:
            # chosen, not multiplied: the padding may hold NaN
            x = torch.where(valid_mask(sizes, *x.shape[2:])[:, None], x, 0)
        x = self.proj(pad_to_multiple(x, self.patch_size, channels_last=False))
        return self.norm(x.permute(0, 2, 3, 1).contiguous())


class PatchMerging(nn.Module):
    """2 x 2 tokens -> LayerNorm -> Linear, as in Swin Transformer, sec. 3.1.

    Odd sizes are padded with zeros at the bottom and right, and so is each image.

    Args:
        in_dim: Channels of the input tokens.
        out_dim: Channels of the output tokens.
    """

    def __init__(self, in_dim: int, out_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * in_dim, eps=1e-6)
        self.reduction = nn.Linear(4 * in_dim, out_dim, bias=False)
        nn.init.trunc_normal_(self.reduction.weight, std=0.02)

    def forward(self, x: Tensor, region: Region | None = None) -> Tensor:
        """Tokens (B, H, W, in_dim) -> (B, ceil(H / 2), ceil(W / 2), out_dim)."""
        x = pad_to_multiple(keep_valid(x, region), 2)
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3)  # (B, h, w, 2, 2, C)
        return self.reduction(self.norm(x.flatten(3)))
