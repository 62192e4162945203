"""ViT and DeiT: token mixing by self-attention, the baseline of this package.

An Image is Worth 16x16 Words, Alexey Dosovitskiy et al., ICLR 2021,
https://arxiv.org/abs/2010.11929; Training data-efficient image transformers, Hugo
Touvron et al., ICML 2021, https://arxiv.org/abs/2012.12877 (table 1 for the sizes).
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...registry import MODELS
from ..layers import MODES, ResolutionAdapter, init_linear, key_mask
from .base import PlainBackbone
from .mlp_mixer import MixerBlock


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
        """Tokens (B, P, N, dim) -> (B, P, N, dim), among those of each part that ``mask`` has."""
        q, k, v = rearrange(self.qkv(x), 'b p n (t h d) -> t (b p) h n d', t=3, h=self.num_heads)
        if mask is not None:
            mask = key_mask(mask).expand(len(x), -1, -1, -1).flatten(0, 1)[:, None]
        y = F.scaled_dot_product_attention(q, k, v, mask)
        return self.proj(rearrange(y, '(b p) h n d -> b p n (h d)', b=len(x)))


def make_vit_block(
    dim: int,
    adapter: ResolutionAdapter,
    num_heads: int,
    drop_path: float = 0.0,
    mlp_ratio: float = 4,
    prefix_tokens: int = 0,
) -> MixerBlock:
    """A ViT block: a Mixer layer whose mixer is attention."""
    return MixerBlock(dim, Attention(dim, num_heads), adapter, drop_path, mlp_ratio)


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
