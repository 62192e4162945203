from .files import read_weights, write_weights
from .key_maps import KEY_MAPS, KeyMap
from .loading import (
    Report,
    check_complete,
    check_shapes,
    guess_backbone,
    load_pretrained,
    load_weights,
    recognise,
    rename_earlier,
    rename_foreign,
    translate,
)

__all__ = [
    'KEY_MAPS',
    'KeyMap',
    'Report',
    'check_complete',
    'check_shapes',
    'guess_backbone',
    'load_pretrained',
    'load_weights',
    'read_weights',
    'recognise',
    'rename_earlier',
    'rename_foreign',
    'translate',
    'write_weights',
]
