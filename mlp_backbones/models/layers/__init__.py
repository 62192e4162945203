from .affine import Affine
from .mlp import Mlp, init_linear
from .patch import PatchEmbed, PatchMerging
from .position_embedding import PositionEmbedding
from .resampling import build_resampling_matrix, resample, resampling_matrix
from .resolution import GRID_MODES, MODES, ResolutionAdapter, parse_resolution
from .slices import by_band, by_token, recompute
from .spatial_shift import SpatialShift
from .token_linear import TokenLinear, check_shape, resize_tokens
from .valid_size import Sizes, check_valid_sizes, per_image, shrink, zero_padding

__all__ = [
    'Affine',
    'GRID_MODES',
    'MODES',
    'Mlp',
    'PatchEmbed',
    'PatchMerging',
    'PositionEmbedding',
    'ResolutionAdapter',
    'Sizes',
    'SpatialShift',
    'TokenLinear',
    'build_resampling_matrix',
    'by_band',
    'by_token',
    'check_shape',
    'check_valid_sizes',
    'init_linear',
    'parse_resolution',
    'per_image',
    'recompute',
    'resample',
    'resampling_matrix',
    'resize_tokens',
    'shrink',
    'zero_padding',
]
