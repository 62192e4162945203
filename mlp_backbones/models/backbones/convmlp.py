"""ConvMLP: channel mixing, and depthwise convolutions for token mixing.

ConvMLP: Hierarchical Convolutional MLPs for Vision, Jiachen Li, Ali Hassani, Steven Walton,
Humphrey Shi, CVPRW 2023, https://arxiv.org/abs/2109.04454 (section 3, table 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from ...registry import MODELS
from ..layers import (
    ConvMerging,
    ConvNorm,
    Mlp,
    Region,
    Resolution,
    Sizes,
    keep_valid,
    make_region,
    shrink,
)
from ..layers.patch import valid_pixels
from .base import stochastic_depth
from .pyramid import PyramidBackbone


class ConvTokenizer(nn.Module):
    """Image to tokens of stride 4: three convolutions of 3 x 3, each with batch norm and ReLU, the
    first with stride 2, then max pooling of 3 x 3 with stride 2 (sec. 3.2).

    Args:
        in_channels: Channels of the image.
        dim: Channels of the tokens; after the first two convolutions there are half as many.
    """

    def __init__(self, in_channels: int, dim: int):
        super().__init__()
        half = max(dim // 2, 1)
        self.steps = nn.ModuleList(
            [
                ConvNorm(in_channels, half, stride=2),
                ConvNorm(half, half),
                ConvNorm(half, dim),
            ]
        )
        self.act = nn.ReLU()
        init_convolutions(self)

    def forward(self, x: Tensor, sizes: Sizes = None) -> Tensor:
        """Images (B, C, H, W) -> tokens (B, ceil(H / 4), ceil(W / 4), dim)."""
        x = valid_pixels(x, sizes).permute(0, 2, 3, 1).contiguous()
        region = None  # of the image, whose padding is zero by now
        for step in self.steps:
            x = self.act(step(x, region))
            region = make_region(x, shrink(sizes, 2))
        # no number is below the zeros beyond an image, so that they count as no token
        maps = F.max_pool2d(keep_valid(x, region).permute(0, 3, 1, 2), 3, stride=2, padding=1)
        return maps.permute(0, 2, 3, 1)


class ConvBlock(nn.Module):
    """``X + f(X)`` with f of convolutions of 1 x 1, 3 x 3 and 1 x 1, each with batch norm and
    ReLU, the last one, too (sec. 3.3): (B, H, W, dim).

    Args:
        dim: Channels of the tokens.
        hidden_dim: Channels between the convolutions.
    """

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.steps = nn.ModuleList(
            [
                ConvNorm(dim, hidden_dim, kernel_size=1),
                ConvNorm(hidden_dim, hidden_dim),
                ConvNorm(hidden_dim, dim, kernel_size=1),
            ]
        )
        self.act = nn.ReLU()
        init_convolutions(self)

    def forward(self, x: Tensor, region: Region | None = None) -> Tensor:
        y = x
        for step in self.steps:
            y = self.act(step(y, region))
        return x + y


class ConvMLPBlock(nn.Module):
    """``Y = X + mlp1(norm(X))``, ``Z = conv(norm(Y))``, ``Z + mlp2(norm(Z))`` (sec. 3.4):
    (B, H, W, dim). The depthwise convolution of 3 x 3 has no bias, and nothing bypasses it.

    Args:
        dim: Channels of the tokens.
        resolution: Not needed by this family.
        drop_path: Probability of leaving a branch out for an image.
        mlp_ratio: Hidden width of channel mixing / dim. Default: 2.
    """

    def __init__(
        self,
        dim: int,
        resolution: Resolution | None = None,
        drop_path: float = 0.0,
        mlp_ratio: float = 2,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.mlp1 = Mlp(dim, int(dim * mlp_ratio))
        self.conv_norm = nn.LayerNorm(dim)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp2 = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)
        init_convolutions(self)

    def forward(self, x: Tensor, region: Region | None = None) -> Tensor:
        x = x + self.drop_path(self.mlp1(self.norm1(x)))
        x = keep_valid(self.conv_norm(x), region).permute(0, 3, 1, 2)
        x = self.conv(x).permute(0, 2, 3, 1)
        return x + self.drop_path(self.mlp2(self.norm2(x)))


def init_convolutions(module: nn.Module) -> nn.Module:
    """Initial values of the authors' code."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode='fan_out', nonlinearity='relu')
    return module


@MODELS.register_module()
class ConvMLP(PyramidBackbone):
    """ConvMLP as published: a convolutional stem and first stage, convolutions between the stages.

    The first three maps are what their stages are given, the last is what its stage returns;
    none has a norm. Stochastic depth begins anew with each stage and leaves out the first.

    Arguments: see :class:`PyramidBackbone` (without ``resolution``), and ``mlp_ratio`` of
    :class:`ConvMLPBlock`. It adds a ``stem``, its default: 'tokenizer', see
    :class:`ConvTokenizer`.
    """

    presets = {
        'nano': dict(channels=(32, 64, 128, 256), depths=(2, 2, 4, 2)),
        's': dict(channels=(64, 128, 256, 512), depths=(2, 2, 4, 2)),
        'm': dict(channels=(64, 128, 256, 512), depths=(3, 3, 6, 3), mlp_ratio=3),
        'l': dict(channels=(96, 192, 384, 768), depths=(3, 4, 8, 3), mlp_ratio=3),
    }
    modes = ()
    default_arch = 's'
    stems = {**PyramidBackbone.stems, 'tokenizer': ConvTokenizer}
    default_stem = 'tokenizer'
    make_block = ConvMLPBlock
    make_norm = nn.Identity
    taken_before = (0, 1, 2)

    @staticmethod
    def make_merge(in_dim: int, out_dim: int) -> nn.Module:
        return init_convolutions(ConvMerging(in_dim, out_dim, norm=False))

    def make_stage(
        self, stage: int, drop_rates: Sequence[float], options: dict
    ) -> list[nn.Module]:
        if stage == 0:
            return [ConvBlock(*self.channels[:2]) for _ in drop_rates]
        return super().make_stage(stage, drop_rates, options)

    @staticmethod
    def drop_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
        return [[0.0] * depths[0], *(stochastic_depth(rate, depth) for depth in depths[1:])]
