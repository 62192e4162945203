from .affine import Affine, LayerScale
from .batch_norm import batch_norms, fold, keep_statistics, norm_channels, set_norm_cfg
from .grid_weights import GridWeights
from .map_norm import MapNorm, norm_map
from .mlp import Mlp, init_linear
from .patch import ConvMerging, ConvNorm, ConvStem, PatchEmbed, PatchMerging
from .position_embedding import PositionEmbedding
from .region import Region, Sizes, check_valid_sizes, keep_valid, make_region, shrink
from .resampling import build_resampling_matrix, resample
from .resolution import GRID_MODES, MODES, AnyResolution, Resolution, parse_resolution
from .spatial_shift import SpatialShift, ZeroPaddedShift
from .token_linear import TokenLinear
from .valid_sizes import leave_sizes, read_sizes

__all__ = [
    'Affine',
    'AnyResolution',
    'ConvMerging',
    'ConvNorm',
    'ConvStem',
    'GRID_MODES',
    'GridWeights',
    'LayerScale',
    'MODES',
    'MapNorm',
    'Mlp',
    'PatchEmbed',
    'PatchMerging',
    'PositionEmbedding',
    'Region',
    'Resolution',
    'Sizes',
    'SpatialShift',
    'TokenLinear',
    'ZeroPaddedShift',
    'batch_norms',
    'build_resampling_matrix',
    'check_valid_sizes',
    'fold',
    'init_linear',
    'keep_statistics',
    'keep_valid',
    'leave_sizes',
    'make_region',
    'norm_channels',
    'norm_map',
    'parse_resolution',
    'read_sizes',
    'resample',
    'set_norm_cfg',
    'shrink',
]
