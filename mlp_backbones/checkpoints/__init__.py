from .checks import check_complete, check_shapes, missing_weights
from .files import (
    SUFFIXES,
    CheckpointError,
    check_target,
    find_weights,
    read_checkpoint,
    read_weights,
    refuse_not_finite,
    some,
    write_weights,
    wrong_shape,
)
from .key_maps import KEY_MAPS, KeyMap
from .loading import Report, fit_weights, guess_backbone, load_pretrained, load_weights
from .safe_loading import ZOOS, resolve, safe_loading
from .sources import recognise
from .stand_ins import knows_stand_ins
from .translation import translate_in_place

__all__ = [
    'CheckpointError',
    'KEY_MAPS',
    'KeyMap',
    'Report',
    'SUFFIXES',
    'ZOOS',
    'check_complete',
    'check_shapes',
    'check_target',
    'find_weights',
    'fit_weights',
    'guess_backbone',
    'knows_stand_ins',
    'load_pretrained',
    'load_weights',
    'missing_weights',
    'read_checkpoint',
    'read_weights',
    'recognise',
    'refuse_not_finite',
    'resolve',
    'safe_loading',
    'some',
    'translate_in_place',
    'write_weights',
    'wrong_shape',
]
