"""S2-MLP: token mixing by shifting groups of channels.

S2-MLP: Spatial-Shift MLP Architecture for Vision, Tan Yu, Xu Li, Yunfeng Cai, Mingming
Sun, Ping Li, WACV 2022, https://arxiv.org/abs/2106.07477 (section 3, table 1).
"""

from __future__ import annotations

from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from ...registry import MODELS
from ..layers import Affine, Mlp, Region, Resolution, SpatialShift, init_linear
from .base import check_choice
from .plain import PlainBackbone
from .pyramid import PyramidBackbone

NORMS = {'LN': lambda dim: nn.LayerNorm(dim, eps=1e-6), 'Affine': Affine}


class S2MLPBlock(nn.Module):
    """``U = X + W2 shift(gelu(W1 norm(X)))``, ``Y = U + mlp(norm(U))`` (sec. 3.2).

    The shift fits a map of any size: there is no grid, and nothing to adapt.

    Args:
        dim: Channels of the tokens.
        resolution: Not needed by this family.
        drop_path: Probability of leaving a branch out for an image.
        mlp_ratio: Hidden width of channel mixing / dim. Default: 4.
        shift_directions: 4, or 8 with the diagonals. Default: 4.
        shift_distance: Length of a shift, in tokens. Default: 1.
        norm: 'LN' or ResMLP's 'Affine'. Default: 'LN'.
    """

    def __init__(
        self,
        dim: int,
        resolution: Resolution | None = None,
        drop_path: float = 0.0,
        mlp_ratio: float = 4,
        shift_directions: int = 4,
        shift_distance: int = 1,
        norm: str = 'LN',
    ):
        super().__init__()
        self.norm1 = NORMS[check_choice('norm', norm, NORMS)](dim)
        self.fc1 = nn.Linear(dim, dim)
        self.act = nn.GELU()
        self.shift = SpatialShift(shift_directions, shift_distance)
        self.fc2 = nn.Linear(dim, dim)
        self.norm2 = NORMS[norm](dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)
        init_linear(self.fc1, self.fc2)

    def forward(self, x: Tensor, region: Region | None = None) -> Tensor:
        y = self.act(self.fc1(self.norm1(x)))
        x = x + self.drop_path(self.fc2(self.shift(y, region)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@MODELS.register_module()
class S2MLP(PyramidBackbone):
    """S2-MLP as a pyramid of four stages.

    Arguments: see :class:`PyramidBackbone` (without ``resolution``), and ``mlp_ratio``,
    ``shift_directions``, ``shift_distance`` and ``norm`` of :class:`S2MLPBlock`.
    """

    presets = {
        'nano': dict(channels=(32, 64, 128, 256), depths=(2, 2, 4, 2)),
        'tiny': dict(channels=(96, 192, 384, 768), depths=(2, 2, 9, 2)),
        'small': dict(channels=(96, 192, 384, 768), depths=(3, 4, 19, 3)),
        'base': dict(channels=(128, 256, 512, 1024), depths=(3, 4, 19, 3)),
    }
    modes = ()
    make_block = S2MLPBlock


@MODELS.register_module()
class PlainS2MLP(PlainBackbone):
    """S2-MLP as published: 'wide' with LayerNorm, 'deep' with Affine.

    The patch embedding has a norm (sec. 3.1), as the last map has.

    Arguments: see :class:`PlainBackbone` (without ``resolution``), and ``mlp_ratio``,
    ``shift_directions``, ``shift_distance`` and ``norm`` of :class:`S2MLPBlock`.
    """

    presets = {
        'wide': dict(embed_dims=768, num_layers=12, patch_size=16, patch_norm=True),
        'deep': dict(embed_dims=384, num_layers=36, patch_size=16, patch_norm=True, norm='Affine'),
    }
    modes = ()
    make_block = S2MLPBlock
