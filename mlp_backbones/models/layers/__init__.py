from .affine import Affine
from .canvas import (
    Canvas,
    Sizes,
    check_valid_sizes,
    keep_valid,
    key_mask,
    make_canvas,
    shrink,
)
from .mlp import Mlp, init_linear
from .patch import PatchEmbed, PatchMerging
from .position_embedding import PositionEmbedding
from .resampling import build_resampling_matrix, resample, resampling_matrix
from .resolution import GRID_MODES, MODES, ResolutionAdapter, TokenMixer, parse_resolution
from .spatial_shift import SpatialShift
from .token_linear import TokenLinear, check_shape, resize_tokens

__all__ = [
    'Affine',
    'Canvas',
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
    'TokenMixer',
    'build_resampling_matrix',
    'check_shape',
    'check_valid_sizes',
    'init_linear',
    'keep_valid',
    'key_mask',
    'make_canvas',
    'parse_resolution',
    'resample',
    'resampling_matrix',
    'resize_tokens',
    'shrink',
]
