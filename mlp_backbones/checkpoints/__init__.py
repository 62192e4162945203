from .files import (
    CheckpointError,
    find_weights,
    read_checkpoint,
    read_weights,
    refuse_not_finite,
    write_weights,
)
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
from .safe_loading import resolve, safe_loading
from .stand_ins import knows_stand_ins

__all__ = [
    'CheckpointError',
    'KEY_MAPS',
    'KeyMap',
    'Report',
    'check_complete',
    'check_shapes',
    'find_weights',
    'guess_backbone',
    'knows_stand_ins',
    'load_pretrained',
    'load_weights',
    'read_checkpoint',
    'read_weights',
    'recognise',
    'refuse_not_finite',
    'rename_earlier',
    'rename_foreign',
    'resolve',
    'safe_loading',
    'translate',
    'write_weights',
]
