from .affine import Affine, LayerScale
from .grid_weights import GridWeights
from .mlp import Mlp, init_linear
from .patch import PatchEmbed, PatchMerging
from .position_embedding import PositionEmbedding
from .region import Region, Sizes, check_valid_sizes, keep_valid, make_region, shrink
from .resampling import build_resampling_matrix, resample
from .resolution import GRID_MODES, MODES, AnyResolution, Resolution, parse_resolution
from .spatial_shift import SpatialShift
from .token_linear import TokenLinear
from .valid_sizes import leave_sizes, read_sizes

__all__ = [
    'Affine',
    'AnyResolution',
    'GRID_MODES',
    'GridWeights',
    'LayerScale',
    'MODES',
    'Mlp',
    'PatchEmbed',
    'PatchMerging',
    'PositionEmbedding',
    'Region',
    'Resolution',
    'Sizes',
    'SpatialShift',
    'TokenLinear',
    'build_resampling_matrix',
    'check_valid_sizes',
    'init_linear',
    'keep_valid',
    'leave_sizes',
    'make_region',
    'parse_resolution',
    'read_sizes',
    'resample',
    'shrink',
]
