"""MLP-Mixer: token mixing by an MLP over tokens.

MLP-Mixer: An all-MLP Architecture for Vision, Ilya Tolstikhin et al., NeurIPS 2021,
https://arxiv.org/abs/2105.01601 (section 2 for the layer, table 1 for the sizes,
appendix C for higher resolutions).
"""

from __future__ import annotations

from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from ...registry import MODELS
from ..layers import AnyResolution, Mlp, Region, Resolution, TokenLinear
from .plain import PlainBackbone
from .pyramid import PyramidBackbone


class TokenMlp(nn.Module):
    """``W2 gelu(W1 X + b1) + b2`` over the tokens of one grid (eq. 1, left).

    Args:
        resolution: The grid, and the interpolation for weights of another one in a checkpoint.
        hidden_dim: D_S, the number of values between the two layers.
    """

    def __init__(self, resolution: Resolution, hidden_dim: int):
        super().__init__()
        shared = dict(
            interpolation=resolution.interpolation, prefix_tokens=resolution.prefix_tokens
        )
        self.fc1 = TokenLinear(resolution.tokens, hidden_dim, spatial_out=False, **shared)
        self.act = nn.GELU()
        self.fc2 = TokenLinear(hidden_dim, resolution.tokens, spatial_in=False, **shared)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, C, N) -> (B, C, N), channel by channel."""
        return self.fc2(self.act(self.fc1(x)))


class MixerBlock(nn.Module):
    """``U = X + mixer(norm(X))``, ``Y = U + mlp(norm(U))``: Mixer's layer, and ViT's.

    Args:
        dim: Channels of the tokens.
        mixer: A token mixer of any resolution.
        drop_path: Probability of leaving a branch out for an image.
        mlp_ratio: Hidden width of channel mixing / dim.
    """

    def __init__(
        self, dim: int, mixer: AnyResolution, drop_path: float = 0.0, mlp_ratio: float = 4
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.mixer = mixer
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, region: Region | None = None) -> Tensor:
        """Tokens (B, H, W, dim), or (B, 1 + H W, dim) with a class token first."""
        x = x + self.drop_path(self.mixer(self.norm1(x), region))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def make_mixer_block(
    dim: int,
    resolution: Resolution,
    drop_path: float = 0.0,
    token_ratio: float = 0.5,
    mlp_ratio: float = 4,
) -> MixerBlock:
    """A Mixer layer; ``token_ratio`` is D_S / dim and ``mlp_ratio`` D_C / dim."""
    mixer = AnyResolution(TokenMlp(resolution, int(dim * token_ratio)), resolution)
    return MixerBlock(dim, mixer, drop_path, mlp_ratio)


@MODELS.register_module()
class MLPMixer(PyramidBackbone):
    """MLP-Mixer as a pyramid of four stages.

    Arguments: see :class:`PyramidBackbone`, and ``token_ratio`` and ``mlp_ratio`` of
    :func:`make_mixer_block`.
    """

    presets = {
        'nano': dict(channels=(32, 64, 128, 256), depths=(2, 2, 4, 2)),
        'tiny': dict(channels=(96, 192, 384, 768), depths=(2, 2, 9, 3)),
        'small': dict(channels=(96, 192, 384, 768), depths=(3, 4, 22, 4)),
        'base': dict(channels=(128, 256, 512, 1024), depths=(3, 4, 22, 4)),
    }
    default_resolution = 'interpolate'
    make_block = staticmethod(make_mixer_block)


@MODELS.register_module()
class PlainMLPMixer(PlainBackbone):
    """MLP-Mixer as published (table 1).

    Arguments: see :class:`PlainBackbone`, and ``token_ratio`` and ``mlp_ratio`` of
    :func:`make_mixer_block`. ``pos_embed`` and ``cls_token`` are off in the paper.
    """

    presets = {
        's32': dict(embed_dims=512, num_layers=8, patch_size=32),
        's16': dict(embed_dims=512, num_layers=8, patch_size=16),
        'b32': dict(embed_dims=768, num_layers=12, patch_size=32),
        'b16': dict(embed_dims=768, num_layers=12, patch_size=16),
        'l32': dict(embed_dims=1024, num_layers=24, patch_size=32),
        'l16': dict(embed_dims=1024, num_layers=24, patch_size=16),
        'h14': dict(embed_dims=1280, num_layers=32, patch_size=14),
    }
    takes_class_token = True
    make_block = staticmethod(make_mixer_block)
