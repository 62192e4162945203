from .affine import Affine
from .mlp import Mlp, init_linear
from .patch import PatchEmbed, PatchMerging
from .position_embedding import PositionEmbedding
from .resampling import build_resampling_matrix, resample, resampling_matrix
from .resolution import GRID_MODES, MODES, ResolutionAdapter, parse_resolution
from .spatial_shift import SpatialShift
from .token_linear import TokenLinear, check_shape, resize_tokens

__all__ = [
    'Affine',
    'GRID_MODES',
    'MODES',
    'Mlp',
    'PatchEmbed',
    'PatchMerging',
    'PositionEmbedding',
    'ResolutionAdapter',
    'SpatialShift',
    'TokenLinear',
    'build_resampling_matrix',
    'check_shape',
    'init_linear',
    'parse_resolution',
    'resample',
    'resampling_matrix',
    'resize_tokens',
]
