"""Patch embedding and patch merging for maps of any size."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .valid_size import Sizes, zero_padding


class PatchEmbed(nn.Module):
    """Image to tokens: a linear layer on non-overlapping p x p patches.

    Equal to a convolution of kernel and stride p, whose weights it keeps. An image
    that p does not divide is padded with zeros at the bottom and right, and so is each
    image of ``valid`` sizes in pixels.

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

    def forward(self, x: Tensor, valid: Sizes = None) -> Tensor:
        p = self.patch_size
        _, _, h, w = x.shape
        if valid is not None:
            x = zero_padding(x.permute(0, 2, 3, 1), valid).permute(0, 3, 1, 2)
        if h % p or w % p:
            x = F.pad(x, (0, -w % p, 0, -h % p))
        # as a matrix product, so that the tokens come out channels-last in memory
        patches = rearrange(x, 'b c (h p) (w q) -> b h w (c p q)', p=p, q=p)
        return self.norm(F.linear(patches, self.proj.weight.flatten(1), self.proj.bias))


class PatchMerging(nn.Module):
    """2 x 2 tokens -> LayerNorm -> Linear, as in Swin Transformer, sec. 3.1.

    Odd sizes are padded with zeros at the bottom and right, and so is each image of
    ``valid`` sizes in tokens.

    Args:
        in_dim: Channels of the input tokens.
        out_dim: Channels of the output tokens.
    """

    def __init__(self, in_dim: int, out_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * in_dim, eps=1e-6)
        self.reduction = nn.Linear(4 * in_dim, out_dim, bias=False)
        nn.init.trunc_normal_(self.reduction.weight, std=0.02)

    def forward(self, x: Tensor, valid: Sizes = None) -> Tensor:
        x = zero_padding(x, valid)
        _, h, w, _ = x.shape
        if h % 2 or w % 2:
            x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2))
        x = rearrange(x, 'b (h p) (w q) c -> b h w (p q c)', p=2, q=2)
        return self.reduction(self.norm(x))
