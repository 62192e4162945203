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
from ..layers import (
    ResolutionAdapter,
    Sizes,
    TokenLinear,
    by_token,
    init_linear,
    per_image,
    recompute,
)
from .base import PlainBackbone, PyramidBackbone


class TinyAttention(nn.Module):
    """The single attention head of aMLP (sec. 4.3): (B, N, dim) -> (B, N, out_dim).

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

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        q, k, v = self.qkv(x).unsqueeze(1).chunk(3, dim=-1)  # one head: (B, 1, N, d)
        return self.proj(F.scaled_dot_product_attention(q, k, v).squeeze(1))


class SpatialGatingUnit(nn.Module):
    """The gate ``f(Z_2) = W norm(Z_2) + b`` over tokens of ``s(Z) = Z_1 * f(Z_2)`` (eq. 2, 3).

    W starts near 0 and b at 1, so that s starts as the identity on Z_1.

    Args:
        dim: Channels of Z.
        adapter: Brings f to maps of any size.
        split: Whether Z_1 and Z_2 are the halves of Z, as in the paper's models; else
            both are Z.
    """

    def __init__(self, dim: int, adapter: ResolutionAdapter, split: bool = True):
        super().__init__()
        if split and dim % 2:
            raise ValueError(f'a split spatial gating unit needs an even width, not {dim}.')
        self.split = split
        self.out_dim = dim // 2 if split else dim
        self.adapter = adapter
        tokens = adapter.grid**2
        self.norm = nn.LayerNorm(self.out_dim)
        self.proj = TokenLinear(tokens, tokens, interpolation=adapter.interpolation)
        nn.init.normal_(self.proj.weight, std=1e-6)
        nn.init.ones_(self.proj.bias)

    def forward(self, z2: Tensor) -> Tensor:
        """The gate of norm(Z_2), (B, H, W, out_dim)."""
        return self.adapter(self.proj, z2)


class GMLPBlock(nn.Module):
    """``X + V s(gelu(U norm(X)))`` (eq. 1), channels-last: (B, H, W, dim).

    Args:
        dim: Channels of the tokens.
        adapter: Brings the gate to maps of any size.
        drop_path: Probability of leaving the block out for an image.
        ffn_ratio: d_ffn / dim, the width before the split. Default: 6, the paper's.
        sgu_split: Whether the gate splits its input. Default: True.
        attn_dim: Width of aMLP's tiny attention, which is added to the gate; the paper
            takes 64. Default: 0, for none.
    """

    def __init__(
        self,
        dim: int,
        adapter: ResolutionAdapter,
        drop_path: float = 0.0,
        ffn_ratio: float = 6,
        sgu_split: bool = True,
        attn_dim: int = 0,
    ):
        super().__init__()
        if type(attn_dim) is not int or attn_dim < 0:
            raise ValueError(f'attn_dim={attn_dim!r} must be an integer of at least 0.')
        d_ffn = int(dim * ffn_ratio)
        self.adapter = adapter
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.fc1 = nn.Linear(dim, d_ffn)
        self.act = nn.GELU()
        self.sgu = SpatialGatingUnit(d_ffn, adapter, sgu_split)
        self.attn = TinyAttention(dim, self.sgu.out_dim, attn_dim) if attn_dim else None
        self.fc2 = nn.Linear(self.sgu.out_dim, dim)
        self.drop_path = DropPath(drop_path)
        init_linear(self.fc1, self.fc2)

    def forward(self, x: Tensor, valid: Sizes = None) -> Tensor:
        return x + self.drop_path(per_image(self.mix, x, valid))

    def mix(self, x: Tensor) -> Tensor:
        return self.adapter.run(self.branch, x, width=self.fc1.out_features)

    def branch(self, x: Tensor) -> Tensor:
        h1, z2 = by_token(self.expand, x, width=self.fc1.out_features)
        gate = self.sgu(z2)
        if self.attn:
            gate = gate + self.adapter(self.attn, self.norm(x))
        return by_token(self.contract, (h1, gate), width=self.fc2.in_features)

    def expand(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Z_1 before its GELU, and norm(Z_2)."""
        y = self.norm(x)
        if self.sgu.split:
            # U by halves: each is contiguous in memory, where halves of its output are not
            halves = zip(self.fc1.weight.chunk(2), self.fc1.bias.chunk(2), strict=True)
            h1, h2 = (F.linear(y, weight, bias) for weight, bias in halves)
        else:
            h1 = h2 = self.fc1(y)
        return h1, self.sgu.norm(self.act(h2))

    def contract(self, h1: Tensor, gate: Tensor) -> Tensor:
        return recompute(self.project, h1, gate)

    def project(self, h1: Tensor, gate: Tensor) -> Tensor:
        return self.fc2(self.act(h1) * gate)


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
