"""ResMLP: token mixing by one linear layer, and no normalisation.

ResMLP: Feedforward networks for image classification with data-efficient training, Hugo
Touvron et al., TPAMI 2022, https://arxiv.org/abs/2105.03404 (section 2, eq. 1 to 3).
LayerScale: Going deeper with Image Transformers, Hugo Touvron et al., ICCV 2021,
https://arxiv.org/abs/2103.17239.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from ...registry import MODELS
from ..layers import Affine, AnyResolution, LayerScale, Mlp, Region, Resolution, TokenLinear
from .plain import PlainBackbone
from .pyramid import PyramidBackbone


class ResMLPBlock(nn.Module):
    """``Z = X + Diag(ls1) A Aff(X)``, ``Y = Z + Diag(ls2) C gelu(B Aff(Z))`` (eq. 2, 3).

    Args:
        dim: Channels of the tokens.
        resolution: How the token-mixing layer A meets maps of any size.
        drop_path: Probability of leaving a branch out for an image.
        mlp_ratio: Hidden width of channel mixing / dim. Default: 4.
        layer_scale_init: Initial LayerScale. Default: 0.1, for up to 18 layers.
    """

    def __init__(
        self,
        dim: int,
        resolution: Resolution,
        drop_path: float = 0.0,
        mlp_ratio: float = 4,
        layer_scale_init: float = 0.1,
    ):
        super().__init__()
        n = resolution.tokens
        self.norm1 = Affine(dim)
        linear = TokenLinear(n, n, interpolation=resolution.interpolation)
        self.linear_tokens = AnyResolution(linear, resolution)
        self.ls1 = LayerScale(dim, layer_scale_init)
        self.norm2 = Affine(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.ls2 = LayerScale(dim, layer_scale_init)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, region: Region | None = None) -> Tensor:
        x = x + self.drop_path(self.ls1(self.linear_tokens(self.norm1(x), region)))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))

    @torch.no_grad()
    def switch_to_deploy(self) -> DeployedResMLPBlock:
        """This block with its scales and shifts folded into the linear layers."""
        return DeployedResMLPBlock(self)


class DeployedResMLPBlock(nn.Module):
    """A ResMLP block for inference: the same function with fewer passes over the map.

    Channel mixing absorbs everything: ``C' = Diag(ls2) C``, ``B' = B Diag(alpha)``,
    ``b' = b + B beta``. Token mixing works on the other axis, so that only LayerScale
    moves: ``Diag(ls1) (A Aff(x) + b) = A Aff'(x) + b ls1^T`` with ``Aff'`` scaled by ls1.
    """

    def __init__(self, block: ResMLPBlock):
        super().__init__()
        ls1, ls2 = block.ls1.gamma, block.ls2.gamma
        self.norm1 = block.norm1
        self.norm1.alpha *= ls1
        self.norm1.beta *= ls1
        self.linear_tokens = block.linear_tokens
        self.linear_tokens.f = ChannelBiasLinear(block.linear_tokens.f, ls1)
        self.mlp = block.mlp
        fc1, fc2 = self.mlp.fc1, self.mlp.fc2
        fc1.bias += fc1.weight @ block.norm2.beta
        fc1.weight *= block.norm2.alpha
        fc2.weight *= ls2[:, None]
        fc2.bias *= ls2

    def forward(self, x: Tensor, region: Region | None = None) -> Tensor:
        x = x + self.linear_tokens(self.norm1(x), region)
        return x + self.mlp(x)


class ChannelBiasLinear(nn.Module):
    """``W x + b ls^T`` over tokens, (..., C, N) -> (..., C, N): each channel has its own bias."""

    def __init__(self, linear: TokenLinear, scale: Tensor):
        super().__init__()
        self.weight = linear.weight
        self.bias = nn.Parameter(scale[:, None] * linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight) + self.bias


@MODELS.register_module()
class ResMLP(PyramidBackbone):
    """ResMLP as a pyramid of four stages.

    Arguments: see :class:`PyramidBackbone`, and ``mlp_ratio`` and ``layer_scale_init`` of
    :class:`ResMLPBlock`.
    """

    presets = {
        'nano': dict(channels=(32, 64, 128, 256), depths=(2, 2, 4, 2)),
        'tiny': dict(channels=(96, 192, 384, 768), depths=(2, 3, 9, 3)),
        'small': dict(channels=(96, 192, 384, 768), depths=(3, 5, 22, 4), layer_scale_init=1e-6),
        'base': dict(channels=(128, 256, 512, 1024), depths=(3, 6, 22, 4), layer_scale_init=1e-6),
    }
    make_block = ResMLPBlock


@MODELS.register_module()
class PlainResMLP(PlainBackbone):
    """ResMLP as published; the last norm is an Affine too.

    Arguments: see :class:`PlainBackbone`, and ``mlp_ratio`` and ``layer_scale_init`` of
    :class:`ResMLPBlock`.
    """

    presets = {
        's12': dict(embed_dims=384, num_layers=12, patch_size=16, layer_scale_init=0.1),
        's24': dict(embed_dims=384, num_layers=24, patch_size=16, layer_scale_init=1e-5),
        's36': dict(embed_dims=384, num_layers=36, patch_size=16, layer_scale_init=1e-6),
        'b24': dict(embed_dims=768, num_layers=24, patch_size=16, layer_scale_init=1e-6),
        'b24_8': dict(embed_dims=768, num_layers=24, patch_size=8, layer_scale_init=1e-6),
    }
    make_block = ResMLPBlock
    make_norm = Affine
