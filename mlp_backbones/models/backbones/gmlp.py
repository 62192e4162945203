"""gMLP: token mixing by a spatial gate.

Pay Attention to MLPs, Hanxiao Liu, Zihang Dai, David R. So, Quoc V. Le, NeurIPS 2021,
https://arxiv.org/abs/2105.08050 (section 2 for the block, 2.1 for the spatial gating
unit, table 1 for the sizes).
"""

from __future__ import annotations

import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from ...registry import MODELS
from ..layers import AnyResolution, Region, Resolution, TokenLinear, init_linear
from .plain import PlainBackbone
from .pyramid import PyramidBackbone


class TinyAttention(nn.Module):
    """The single attention head of aMLP (sec. 4.3): (B, dim, N) -> (B, out_dim, N).

    Args:
        dim: Channels of the tokens.
        out_dim: Channels of the gate.
        attn_dim: Channels d of queries, keys and values.
    """

    def __init__(self, dim: int, out_dim: int, attn_dim: int):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * attn_dim)
        self.proj = nn.Linear(attn_dim, out_dim)
        init_linear(self.qkv, self.proj)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens attend to those that ``mask`` (B, N) has."""
        q, k, v = self.qkv(x.transpose(-1, -2)).chunk(3, dim=-1)
        mask = None if mask is None else mask[:, None]
        return self.proj(F.scaled_dot_product_attention(q, k, v, mask)).transpose(-1, -2)


class SpatialGatingUnit(nn.Module):
    """``s(Z) = Z_1 * (W norm(Z_2) + b)``, W over tokens (eq. 2, 3).

    W starts near 0 and b at 1, so that s starts as the identity on Z_1.

    Args:
        dim: Channels of Z.
        resolution: How W and b meet maps of any size.
        split: Whether Z_1 and Z_2 are the halves of Z, as in the paper's models; else
            both are Z.
    """

    def __init__(self, dim: int, resolution: Resolution, split: bool = True):
        super().__init__()
        if split and dim % 2:
            raise ValueError(f'a split spatial gating unit needs an even width, not {dim}.')
        self.split = split
        self.out_dim = dim // 2 if split else dim
        self.norm = nn.LayerNorm(self.out_dim)
        n = resolution.tokens
        linear = TokenLinear(n, n, interpolation=resolution.interpolation)
        nn.init.normal_(linear.weight, std=1e-6)
        nn.init.ones_(linear.bias)
        self.proj = AnyResolution(linear, resolution)

    def forward(
        self, z: Tensor, region: Region | None = None, attention: Tensor | None = None
    ) -> Tensor:
        """Z (B, H, W, dim) -> (B, H, W, out_dim); aMLP adds ``attention`` to the gate."""
        z1, z2 = z.chunk(2, dim=-1) if self.split else (z, z)
        gate = self.proj(self.norm(z2), region)
        return z1 * (gate if attention is None else gate + attention)


class GMLPBlock(nn.Module):
    """``X + V s(gelu(U norm(X)))`` (eq. 1), channels-last: (B, H, W, dim).

    Args:
        dim: Channels of the tokens.
        resolution: How the gate meets maps of any size.
        drop_path: Probability of leaving the block out for an image.
        ffn_ratio: d_ffn / dim, the width before the split. Default: 6, the paper's.
        sgu_split: Whether the gate splits its input. Default: True.
        attn_dim: Width of aMLP's tiny attention, which is added to the gate; the paper
            takes 64. Default: 0, for none.
    """

    def __init__(
        self,
        dim: int,
        resolution: Resolution,
        drop_path: float = 0.0,
        ffn_ratio: float = 6,
        sgu_split: bool = True,
        attn_dim: int = 0,
    ):
        super().__init__()
        if type(attn_dim) is not int or attn_dim < 0:
            raise ValueError(f'attn_dim={attn_dim!r} must be an integer of at least 0.')
        d_ffn = int(dim * ffn_ratio)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.fc1 = nn.Linear(dim, d_ffn)
        self.act = nn.GELU()
        self.sgu = SpatialGatingUnit(d_ffn, resolution, sgu_split)
        self.attn = None
        if attn_dim:
            attention = TinyAttention(dim, self.sgu.out_dim, attn_dim)
            self.attn = AnyResolution(attention, resolution, key_mask=True)
        self.fc2 = nn.Linear(self.sgu.out_dim, dim)
        self.drop_path = DropPath(drop_path)
        init_linear(self.fc1, self.fc2)

    def forward(self, x: Tensor, region: Region | None = None) -> Tensor:
        y = self.norm(x)
        attention = None if self.attn is None else self.attn(y, region)
        z = self.sgu(self.act(self.fc1(y)), region, attention)
        return x + self.drop_path(self.fc2(z))


@MODELS.register_module()
class GMLP(PyramidBackbone):
    """gMLP as a pyramid of four stages.

    Arguments: see :class:`PyramidBackbone`, and ``ffn_ratio``, ``sgu_split`` and
    ``attn_dim`` of :class:`GMLPBlock`.

    Example:
        >>> import torch
        >>> from mlp_backbones.models import GMLP
        >>> maps = GMLP(arch='nano')(torch.rand(1, 3, 200, 336))
        >>> [tuple(m.shape) for m in maps]
        [(1, 32, 50, 84), (1, 64, 25, 42), (1, 128, 13, 21), (1, 256, 7, 11)]
    """

    presets = {
        'nano': dict(channels=(32, 64, 128, 256), depths=(2, 2, 4, 2)),
        'tiny': dict(channels=(96, 192, 384, 768), depths=(2, 2, 7, 3)),
        'small': dict(channels=(96, 192, 384, 768), depths=(2, 3, 18, 4)),
        'base': dict(channels=(128, 256, 512, 1024), depths=(2, 4, 18, 4)),
    }
    default_resolution = ('window', 'window', 'interpolate', 'interpolate')
    make_block = GMLPBlock


@MODELS.register_module()
class PlainGMLP(PlainBackbone):
    """gMLP as published (table 1).

    Arguments: see :class:`PlainBackbone`, and ``ffn_ratio``, ``sgu_split`` and
    ``attn_dim`` of :class:`GMLPBlock`.
    """

    presets = {
        'ti16': dict(embed_dims=128, num_layers=30, patch_size=16),
        's16': dict(embed_dims=256, num_layers=30, patch_size=16),
        'b16': dict(embed_dims=512, num_layers=30, patch_size=16),
    }
    make_block = GMLPBlock
