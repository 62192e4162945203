"""The checkpoints that a training starts from, or goes on from after a stop."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log

from mlp_backbones.checkpoints import CheckpointError, knows_stand_ins
from mlp_backbones.checkpoints.stand_ins import plain, stand_ins
from mlp_backbones.models.backbones.base import is_pretrained

from .checkpoint_fit import check_checkpoint
from .config_check import walk

POINTER = 'last_checkpoint'  # mmengine's file with the path of the newest checkpoint


def check_start(cfg: Config) -> None:
    """Check the checkpoints that a training run starts or goes on from; of those in its work dir,
    make the newest ``load_from``.
    """
    for setting, path in pretrained(cfg.get('model'), 'model'):
        check_checkpoint(path, setting)
    if cfg.get('load_from'):
        setting = '--resume' if cfg.get('resume') else 'load_from'
        check_checkpoint(cfg.load_from, setting, resume=bool(cfg.get('resume')))
    elif cfg.get('resume'):
        # None: mmengine starts from the beginning, so that a job that may be stopped at any time
        # can always be started with --resume.
        cfg.load_from = newest_of_run(cfg)


def newest_of_run(cfg: Config, since: str = '') -> str | None:
    """See :func:`find_newest`."""
    hook = cfg.get('default_hooks', {}).get('checkpoint') or {}
    return find_newest(checkpoint_folders(cfg.work_dir, hook.get('out_dir')), since)


def pretrained(node: Any, setting: str) -> Iterator[tuple[str, str]]:
    """Every checkpoint that an ``init_cfg`` in a piece of config names, with its setting."""
    for where, part in walk(node, setting):
        if 'type' in part and is_pretrained(part) and part.get('checkpoint'):
            yield where, part['checkpoint']
        if isinstance(part.get('pretrained'), str):
            yield f'{where}.pretrained', part['pretrained']


def checkpoint_folders(work_dir: str, out_dir: str | None) -> list[str]:
    """Where the checkpoints of a run may be: ``out_dir`` is CheckpointHook's."""
    if not out_dir or '://' in str(out_dir):
        return [work_dir]
    return [work_dir, os.path.join(out_dir, os.path.basename(os.path.normpath(work_dir)))]


def find_newest(folders: Iterable[str | Path], since: str = '') -> str | None:
    """The newest complete training state in ``folders``, newer than ``since``; None if they
    have none at all.

    By the time that it holds, which survives copying, and not by mmengine's ``last_checkpoint``,
    which may be empty, or name a place from which the folder was moved. Damaged files are passed
    over with a warning; so are weights that are not finite.

    Raises:
        CheckpointError: all of them are damaged.
        FileNotFoundError: there is none but one that ``last_checkpoint`` names, and that is gone.
    """
    folders = [Path(folder) for folder in folders]
    found, damaged = [], []
    for path in _candidates(folders):
        try:
            found.append((_age(path), path))
        except Exception as error:  # a damaged file fails in a dozen ways
            damaged.append(f'{path}: it is damaged, or was cut off ({_first_line(error)})')
    # a run saves nothing in the second in which it is started
    found = [(x, path) for x, path in found if x is not None and (not since or x[0] > since)]
    for _, path in sorted(found)[::-1]:
        try:
            check_checkpoint(str(path), '--resume', resume=True)
        except (OSError, ValueError) as error:
            damaged.append(str(error))
            continue
        _warn(damaged)
        return str(path)
    if damaged:
        raise CheckpointError(
            '--resume: no checkpoint in the work dir is whole:\n  '
            + '\n  '.join(damaged)
            + '\nTo start from the beginning, leave out --resume or remove them.'
        )
    for folder in folders if not since else []:
        pointer = folder / POINTER
        named = pointer.read_text().strip() if pointer.is_file() else ''
        if named and os.path.exists(named):
            return named  # elsewhere, or a folder, of DeepSpeed
        if named:
            raise FileNotFoundError(
                f'--resume, from {pointer}: there is no checkpoint {named}, and no other in '
                f'{folder}. To start from the beginning, remove {pointer}.'
            )
    return None


def _candidates(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        if folder.is_dir():
            for path in sorted(folder.glob('*.pth')):
                if path.is_file() and not path.name.startswith(('.', 'best_')):
                    yield path


def _age(path: Path) -> tuple[str, int] | None:
    """When it was saved, and after how many iterations; None if it is no training state."""
    with open(path, 'rb') as file, stand_ins():
        if file.read(2) != b'PK':
            raise ValueError('it is not a file of torch.save')
        # mmap: the tensors are not read
        content = torch.load(path, map_location='cpu', mmap=True, weights_only=knows_stand_ins())
    meta = content.get('meta') if isinstance(content, dict) else None
    if not isinstance(meta, dict) or 'optimizer' not in content:
        return None
    meta = plain(meta)
    return str(meta.get('time', '')), int(meta.get('iter', 0))


def _warn(damaged: list[str]) -> None:
    for message in damaged:
        print_log(f'Passed over: {message}', logger='current', level=logging.WARNING)


def _first_line(error: Exception) -> str:
    return (str(error) or repr(error)).splitlines()[0]
