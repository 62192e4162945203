"""PoolFormer: token mixing by average pooling.

MetaFormer Is Actually What You Need for Vision, Weihao Yu et al., CVPR 2022,
https://arxiv.org/abs/2111.11418 (section 3, table 1).
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from ...registry import MODELS
from ..layers import ConvMerging, LayerScale, MapNorm, Mlp, Region, Resolution, keep_valid
from .pyramid import PyramidBackbone


class PoolMixer(nn.Module):
    """The mean of the k x k tokens around each, without those beyond the image, minus the token
    itself (eq. 4; the residual connection adds it again).

    Args:
        pool_size: k, an odd number.
    """

    def __init__(self, pool_size: int):
        super().__init__()
        if type(pool_size) is not int or pool_size < 1 or pool_size % 2 == 0:
            raise ValueError(f'pool_size={pool_size!r} must be a positive odd integer.')
        self.pool_size = pool_size

    def forward(self, x: Tensor, region: Region | None = None) -> Tensor:
        """Tokens (B, H, W, C) -> (B, H, W, C)."""
        mean = self.pool(keep_valid(x, region))
        if region is not None and region.mask is not None:
            share = self.pool(region.mask.to(x.dtype))  # of the tokens that were counted
            mean = mean / share.clamp(min=self.pool_size**-2)
        return mean - x

    def pool(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(
            x.permute(0, 3, 1, 2),
            self.pool_size,
            stride=1,
            padding=self.pool_size // 2,
            count_include_pad=False,
        )
        return x.permute(0, 2, 3, 1)

    def extra_repr(self) -> str:
        return f'pool_size={self.pool_size}'


class PoolFormerBlock(nn.Module):
    """``Y = X + ls1 pool(norm(X))``, ``Z = Y + ls2 mlp(norm(Y))`` (eq. 2 to 4): (B, H, W, dim).

    The norm is over all channels and the whole image: see :class:`MapNorm`.

    Args:
        dim: Channels of the tokens.
        resolution: Not needed by this family.
        drop_path: Probability of leaving a branch out for an image.
        mlp_ratio: Hidden width of channel mixing / dim. Default: 4.
        pool_size: Side of the pooling window, in tokens. Default: 3.
        layer_scale_init: Initial LayerScale. Default: 1e-5, for up to 24 blocks.
    """

    def __init__(
        self,
        dim: int,
        resolution: Resolution | None = None,
        drop_path: float = 0.0,
        mlp_ratio: float = 4,
        pool_size: int = 3,
        layer_scale_init: float = 1e-5,
    ):
        super().__init__()
        self.norm1 = MapNorm(dim)
        self.mixer = PoolMixer(pool_size)
        self.ls1 = LayerScale(dim, layer_scale_init)
        self.norm2 = MapNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.ls2 = LayerScale(dim, layer_scale_init)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, region: Region | None = None) -> Tensor:
        x = x + self.drop_path(self.ls1(self.mixer(self.norm1(x, region), region)))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x, region))))


@MODELS.register_module()
class PoolFormer(PyramidBackbone):
    """PoolFormer as published: a stem of overlapping patches, convolutions between the stages.

    Arguments: see :class:`PyramidBackbone` (without ``resolution``), and ``mlp_ratio``,
    ``pool_size`` and ``layer_scale_init`` of :class:`PoolFormerBlock`.
    """

    presets = {
        'nano': dict(channels=(32, 64, 128, 256), depths=(2, 2, 4, 2)),
        's12': dict(channels=(64, 128, 320, 512), depths=(2, 2, 6, 2)),
        's24': dict(channels=(64, 128, 320, 512), depths=(4, 4, 12, 4)),
        's36': dict(channels=(64, 128, 320, 512), depths=(6, 6, 18, 6), layer_scale_init=1e-6),
        'm36': dict(channels=(96, 192, 384, 768), depths=(6, 6, 18, 6), layer_scale_init=1e-6),
        'm48': dict(channels=(96, 192, 384, 768), depths=(8, 8, 24, 8), layer_scale_init=1e-6),
    }
    modes = ()
    default_arch = 's12'
    default_stem = 'overlap'
    make_block = PoolFormerBlock
    make_merge = staticmethod(partial(ConvMerging, norm=False))
    make_norm = MapNorm
