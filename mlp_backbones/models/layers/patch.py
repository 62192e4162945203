"""Patch embedding and patch merging for maps of any size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .batch_norm import fold, norm_channels
from .region import Region, keep_valid, make_region, shrink, valid_mask
from .tracing import is_zero


def pad_to_multiple(x: Tensor, p: int, channels_last: bool = True) -> Tensor:
    """(B, H, W, C) or (B, C, H, W) with zeros at the bottom and right, up to multiples of p."""
    size = x.shape[1:3] if channels_last else x.shape[2:]
    # in the form that compilers of symbolic sizes simplify best
    rows, columns = ((n + p - 1) // p * p - n for n in size)
    if is_zero(rows) and is_zero(columns):
        return x
    return F.pad(x, (*(0, 0)[: 2 * channels_last], 0, columns, 0, rows))


def valid_pixels(x: Tensor, sizes: Tensor | None) -> Tensor:
    """Images (B, C, H, W) with zeros beyond each of ``sizes``."""
    if sizes is None:
        return x
    # chosen, not multiplied: the padding may hold NaN
    return torch.where(valid_mask(sizes, *x.shape[2:])[:, None], x, 0)


class PatchEmbed(nn.Module):
    """Image to tokens: a linear layer on patches of p x p pixels, as a convolution; with a larger
    kernel the patches overlap.

    An image that p does not divide is padded with zeros at the bottom and right, and so
    is each image of ``sizes`` in pixels.

    Args:
        in_channels: Channels of the image.
        dim: Channels of the tokens.
        patch_size: Side p of a patch, in pixels, and the stride.
        norm: A norm of the tokens; None for none.
        kernel_size: Side of what a token sees, in pixels. Default: ``patch_size``.
        padding: How far the first token sees beyond the image, where all is zero. Default: 0.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        patch_size: int,
        norm: nn.Module | None = None,
        kernel_size: int | None = None,
        padding: int = 0,
    ):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, dim, kernel_size or patch_size, patch_size, padding)
        self.norm = norm or nn.Identity()

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Images (B, C, H, W) -> tokens (B, ceil(H / p), ceil(W / p), dim)."""
        x = pad_to_multiple(valid_pixels(x, sizes), self.patch_size, channels_last=False)
        x = self.proj(x)
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


class ConvNorm(nn.Module):
    """A convolution over tokens, then batch norm.

    What lies beyond an image is zero.

    Args:
        in_dim: Channels of the input tokens.
        out_dim: Channels of the output tokens.
        kernel_size: Side of the kernel, an odd number. Default: 3.
        stride: Its step. Default: 1.
        norm: Whether there is a batch norm; without one the convolution has a bias.
            Default: True.
    """

    def __init__(
        self, in_dim: int, out_dim: int, kernel_size: int = 3, stride: int = 1, norm: bool = True
    ):
        super().__init__()
        padding = kernel_size // 2
        self.conv = nn.Conv2d(in_dim, out_dim, kernel_size, stride, padding, bias=not norm)
        self.norm = nn.BatchNorm2d(out_dim) if norm else nn.Identity()

    def forward(self, x: Tensor, region: Region | None = None) -> Tensor:
        """Tokens (B, H, W, in_dim) -> (B, ceil(H / stride), ceil(W / stride), out_dim)."""
        x = self.conv(keep_valid(x, region).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return norm_channels(self.norm, x)

    def switch_to_deploy(self) -> ConvNorm:
        """This layer with its norm folded into the convolution."""
        if not isinstance(self.norm, nn.Identity):
            self.conv, self.norm = fold(self.conv, self.norm), nn.Identity()
        return self


class ConvMerging(ConvNorm):
    """A convolution of 3 x 3 with stride 2 over tokens, then batch norm: half the size.

    Args:
        in_dim: Channels of the input tokens.
        out_dim: Channels of the output tokens.
        norm: Whether there is a batch norm, see :class:`ConvNorm`. Default: True.
    """

    def __init__(self, in_dim: int, out_dim: int, norm: bool = True):
        super().__init__(in_dim, out_dim, kernel_size=3, stride=2, norm=norm)


class ConvStem(nn.Module):
    """Image to tokens of stride 4 in two steps: ``merge(relu(merge(x)))``.

    Args:
        in_channels: Channels of the image.
        dim: Channels of the tokens; between the steps there are half as many.
    """

    def __init__(self, in_channels: int, dim: int):
        super().__init__()
        self.step1 = ConvMerging(in_channels, max(dim // 2, 1))
        self.act = nn.ReLU()
        self.step2 = ConvMerging(max(dim // 2, 1), dim)

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Images (B, C, H, W) -> tokens (B, ceil(H / 4), ceil(W / 4), dim)."""
        x = self.act(self.step1(valid_pixels(x, sizes).permute(0, 2, 3, 1).contiguous()))
        return self.step2(x, make_region(x, shrink(sizes, 2)))
