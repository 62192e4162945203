from .patch import PatchEmbed, PatchMerging
from .resampling import build_resampling_matrix, resample, resampling_matrix
from .resolution import GRID_MODES, MODES, ResolutionAdapter, parse_resolution
from .token_linear import TokenLinear, check_shape, resize_tokens

__all__ = [
    'GRID_MODES',
    'MODES',
    'PatchEmbed',
    'PatchMerging',
    'ResolutionAdapter',
    'TokenLinear',
    'build_resampling_matrix',
    'check_shape',
    'parse_resolution',
    'resample',
    'resampling_matrix',
    'resize_tokens',
]
