"""Lets mmengine load checkpoints by the reader of this package."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.logging import print_log
from mmengine.runner import checkpoint as mm

from .files import CheckpointError, find_weights, read_checkpoint
from .stand_ins import knows_stand_ins

# Model zoos whose names mmengine turns into addresses.
ZOOS = {
    'modelzoo://': mm.get_torchvision_models,
    'torchvision://': mm.get_torchvision_models,
    'open-mmlab://': mm.get_external_models,
    'openmmlab://': mm.get_external_models,
    'mmcls://': mm.get_mmcls_models,
}


@contextmanager
def safe_loading() -> Iterator[None]:
    """Let whatever loads a checkpoint with mmengine (a Runner to train, test or resume, an
    ``init_cfg``, an inferencer) read it with :func:`read_checkpoint`, which runs nothing in it.

    The configs in a checkpoint, which mmengine would execute, are left out. Before 2.6, torch
    cannot read a training state this way: mmengine then reads it in its own way, and a warning
    says so.
    """
    if not knows_stand_ins():
        print_log(
            f'torch {torch.__version__} cannot read a checkpoint without running the code that '
            'may be in it; from 2.6 on it can. Load only files that you trust.',
            logger='current',
            level=logging.WARNING,
        )
        yield
        return
    schemes = mm.CheckpointLoader._schemes
    mm.CheckpointLoader._schemes = {'': load_from_data_only}
    try:
        yield
    finally:
        mm.CheckpointLoader._schemes = schemes


def load_from_data_only(address: str, map_location=None) -> dict:
    """A loader for mmengine, whose log calls it by the end of its name."""
    try:
        content = read_checkpoint(resolve(address))
    except (ImportError, OSError) as error:
        raise CheckpointError(str(error)) from error
    content = {'meta': {}, **content, 'state_dict': find_weights(content)}  # mmseg asks for meta
    meta, hub = content.get('meta'), content.get('message_hub')
    info = hub.get('runtime_info') if isinstance(hub, dict) else None
    for place in (meta, info):
        if isinstance(place, dict):
            for name in ('cfg', 'config'):
                place.pop(name, None)
    if address.startswith('mmcls://'):
        content = mm._process_mmcls_checkpoint(content)
    return content


def resolve(address: str) -> str:
    """The address behind the name of a model in one of mmengine's zoos."""
    for prefix, models in ZOOS.items():
        if address.startswith(prefix):
            name = address.removeprefix(prefix)
            name = mm.get_deprecated_model_names().get(name, name)
            if name not in models():
                raise CheckpointError(f'{address} is not a model of that zoo.')
            return models()[name]
    return address
