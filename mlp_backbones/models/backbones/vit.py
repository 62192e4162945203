"""ViT and DeiT: token mixing by self-attention, the baseline of this package.

An Image is Worth 16x16 Words, Alexey Dosovitskiy et al., ICLR 2021,
https://arxiv.org/abs/2010.11929; Training data-efficient image transformers, Hugo
Touvron et al., ICML 2021, https://arxiv.org/abs/2012.12877 (table 1 for the sizes).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ...registry import MODELS
from ..layers import MODES, AnyResolution, Resolution, init_linear
from .mlp_mixer import MixerBlock
from .plain import PlainBackbone


class Attention(nn.Module):
    """``softmax(Q K^T / sqrt(d)) V`` over tokens, in several heads (ViT, appendix A).

    Args:
        dim: Channels of the tokens.
        num_heads: Number of heads; divides ``dim``.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        if type(num_heads) is not int or num_heads < 1 or dim % num_heads:
            raise ValueError(f'num_heads={num_heads} does not divide the width {dim}.')
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        init_linear(self.qkv, self.proj)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens (B, dim, N) -> (B, dim, N), attending to those that ``mask`` (B, N) has."""
        qkv = self.qkv(x.transpose(-1, -2)).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, d)
        mask = None if mask is None else mask[:, None, None]
        y = F.scaled_dot_product_attention(q, k, v, mask)
        return self.proj(y.transpose(1, 2).flatten(2)).transpose(-1, -2)


def make_vit_block(
    dim: int,
    resolution: Resolution,
    num_heads: int,
    drop_path: float = 0.0,
    mlp_ratio: float = 4,
) -> MixerBlock:
    """A ViT block: a Mixer layer whose mixer is attention."""
    mixer = AnyResolution(Attention(dim, num_heads), resolution, key_mask=True)
    return MixerBlock(dim, mixer, drop_path, mlp_ratio)


DEIT = dict(cls_token=True, pos_embed=True)


@MODELS.register_module()
class PlainViT(PlainBackbone):
    """ViT in the sizes of DeiT, with a class token unless ``cls_token=False``.

    Arguments: see :class:`PlainBackbone`, and ``num_heads`` and ``mlp_ratio`` of
    :func:`make_vit_block`. ``resolution`` may also be 'global', the default: attention
    takes any number of tokens, at a cost that grows with its square.
    """

    presets = {
        'ti': dict(embed_dims=192, num_layers=12, patch_size=16, num_heads=3, **DEIT),
        's': dict(embed_dims=384, num_layers=12, patch_size=16, num_heads=6, **DEIT),
        'b': dict(embed_dims=768, num_layers=12, patch_size=16, num_heads=12, **DEIT),
    }
    modes = tuple(MODES)
    default_resolution = 'global'
    default_interpolation = 'bicubic'
    takes_class_token = True
    make_block = staticmethod(make_vit_block)
