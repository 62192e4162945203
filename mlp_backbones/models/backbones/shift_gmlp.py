"""ShiftGMLP: a gate of spatial shifts and interpolated token mixing, with batch norm.

It has no paper of its own; its parts do: the gate of gMLP (Liu et al., NeurIPS 2021,
https://arxiv.org/abs/2105.08050), the spatial shift of S2-MLP (Yu et al., WACV 2022,
https://arxiv.org/abs/2106.07477), and a gate over a local mix, of gSwin (Go and Tachibana,
ICASSP 2023, https://arxiv.org/abs/2208.11718).
"""

from __future__ import annotations

import copy

import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from ...registry import MODELS
from ..layers import (
    AnyResolution,
    ConvMerging,
    Region,
    Resolution,
    TokenLinear,
    ZeroPaddedShift,
    fold,
    norm_channels,
)
from .pyramid import PyramidBackbone


class LocalGlobalMix(nn.Module):
    """``f(V)``: shifts in eight directions, and of the second half of the channels ``K V``.

    Of the channels that are shifted, 32 stay where they are, but no more than half.

    Args:
        dim: Channels of V.
        resolution: How K meets maps of any size; None for shifts alone, of all channels.
    """

    def __init__(self, dim: int, resolution: Resolution | None):
        super().__init__()
        self.shifted_dim = dim if resolution is None else dim // 2
        if self.shifted_dim < 8:
            raise ValueError(f'eight shifts need 8 channels or more, not {self.shifted_dim}.')
        self.shift = ZeroPaddedShift(max((self.shifted_dim - 32) // 8, self.shifted_dim // 16, 1))
        self.mix = None
        if resolution is not None:
            n = resolution.tokens
            linear = TokenLinear(n, n, interpolation=resolution.interpolation, bias=False)
            nn.init.normal_(linear.weight, std=1e-3)
            self.mix = AnyResolution(linear, resolution)

    def forward(self, v: Tensor, region: Region | None = None) -> Tensor:
        """V (B, H, W, dim) -> (B, H, W, dim)."""
        if self.mix is None:
            return self.shift(v, region)
        near, far = v.tensor_split([self.shifted_dim], -1)
        return torch.cat([self.shift(near, region), self.mix(far, region)], -1)


class ShiftGMLPBlock(nn.Module):
    """``X + BN(relu(U) (1 + f(V)) W_2)`` with ``[U, V] = BN(X W_1)``: (B, H, W, dim).

    Args:
        dim: Channels of the tokens.
        resolution: How the token mixing in f meets maps of any size; None for shifts alone.
        drop_path: Probability of leaving the block out for an image.
        mlp_ratio: Channels of U, and of V / dim. Default: 2.
    """

    reach = 1  # a token takes from the rows above and below its own

    def __init__(
        self,
        dim: int,
        resolution: Resolution | None = None,
        drop_path: float = 0.0,
        mlp_ratio: float = 2,
    ):
        super().__init__()
        hidden_dim = int(dim * mlp_ratio)
        self.fc1 = nn.Linear(dim, 2 * hidden_dim, bias=False)
        self.norm1 = nn.BatchNorm2d(2 * hidden_dim)
        self.act = nn.ReLU()
        self.gate = LocalGlobalMix(hidden_dim, resolution)
        self.fc2 = nn.Linear(hidden_dim, dim, bias=False)
        self.norm2 = nn.BatchNorm2d(dim)
        self.drop_path = DropPath(drop_path)
        nn.init.normal_(self.fc1.weight, std=dim**-0.5)
        nn.init.normal_(self.fc2.weight, std=hidden_dim**-0.5)
        nn.init.constant_(self.norm2.weight, 0.1)

    def forward(self, x: Tensor, region: Region | None = None) -> Tensor:
        u, v = norm_channels(self.norm1, self.fc1(x)).chunk(2, -1)
        u = self.act(u)
        z = torch.addcmul(u, u, self.gate(v, region))
        return x + self.drop_path(norm_channels(self.norm2, self.fc2(z)))

    @torch.no_grad()
    def switch_to_deploy(self) -> DeployedShiftGMLPBlock:
        """This block with its norms folded into the linear layers."""
        return DeployedShiftGMLPBlock(self)


class DeployedShiftGMLPBlock(nn.Module):
    """A ShiftGMLP block for inference: the same function without norms, U and V each by itself."""

    reach = ShiftGMLPBlock.reach

    def __init__(self, block: ShiftGMLPBlock):
        super().__init__()
        both = fold(block.fc1, block.norm1)
        self.fc_u, self.fc_v = both, copy.deepcopy(both)
        for i, layer in enumerate((self.fc_u, self.fc_v)):
            layer.weight = nn.Parameter(layer.weight.chunk(2)[i].clone())
            layer.bias = nn.Parameter(layer.bias.chunk(2)[i].clone())
            layer.out_features //= 2
        self.act = nn.ReLU(inplace=True)
        self.gate = block.gate
        self.fc2 = fold(block.fc2, block.norm2)

    def forward(self, x: Tensor, region: Region | None = None) -> Tensor:
        u, v = self.act(self.fc_u(x)), self.fc_v(x)
        return x + self.fc2(torch.addcmul(u, u, self.gate(v, region)))


@MODELS.register_module()
class ShiftGMLP(PyramidBackbone):
    """ShiftGMLP, a pyramid of four stages: a convolutional stem and merging, shifts alone in the
    first stage, no norms of the outputs.

    Arguments: see :class:`PyramidBackbone`, and ``mlp_ratio`` of :class:`ShiftGMLPBlock`.
    """

    presets = {
        'pico': dict(channels=(32, 64, 128, 256), depths=(2, 2, 6, 2)),
        'nano': dict(channels=(32, 64, 128, 256), depths=(2, 3, 8, 2)),
        'tiny': dict(channels=(96, 192, 384, 768), depths=(2, 3, 14, 3)),
        'small': dict(channels=(96, 192, 384, 768), depths=(3, 4, 33, 4)),
        'base': dict(channels=(128, 256, 512, 1024), depths=(3, 4, 33, 4)),
    }
    default_stem = 'conv'
    default_mixing_strides = (None, 16, 16, 32)
    default_resolution = 'interpolate'
    make_block = ShiftGMLPBlock
    make_merge = ConvMerging
    make_norm = nn.Identity
