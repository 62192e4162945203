"""Whether the data of a config is where the config says, and has the classes that it says."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.config import Config

from .config_check import classes_of, walk

COCO_DATASET = ('CocoDataset', 'mmdet.CocoDataset')


def check_data(cfg: Config, loops: Sequence[str]) -> None:
    """Check the data of the loops ('train', 'val', 'test').

    Raises:
        FileNotFoundError: some is not there, with each path and the setting that names it.
        ValueError: it has other classes than the config says, see :func:`check_categories`.
    """
    check_paths(cfg, loops)
    check_categories(cfg, loops)


def check_paths(cfg: Config, loops: Sequence[str]) -> None:
    """Raise FileNotFoundError if data of the loops is not there."""
    problems = [problem for loop in loops for problem in _missing_data(cfg, loop)]
    if problems:
        lines = ['the data set is not there:', *(f'  {line}' for line in problems)]
        if cfg.get('data_root'):
            lines.append(
                'Say where it is with --cfg-options data_root=FOLDER (now '
                f'{cfg.data_root}), which moves all of its parts.'
            )
        lines.append(
            'How to get it and what its folder holds: see README.md and docs/training.md#data.'
        )
        raise FileNotFoundError('\n'.join(lines))


def _missing_data(cfg: Config, loop: str) -> Iterator[str]:
    # mmengine runs a loop only if both are there.
    dataloader = cfg.get(f'{loop}_dataloader')
    if not isinstance(dataloader, dict) or cfg.get(f'{loop}_cfg') is None:
        return
    yield from _missing_in_dataset(dataloader.get('dataset'), f'{loop}_dataloader.dataset')
    evaluators = cfg.get(f'{loop}_evaluator')
    is_list = isinstance(evaluators, (list, tuple))
    for i, evaluator in enumerate(evaluators if is_list else [evaluators]):
        if isinstance(evaluator, dict) and not evaluator.get('backend_args'):
            index = f'.{i}' if is_list else ''
            yield from _missing_path(
                evaluator.get('ann_file'), f'{loop}_evaluator{index}.ann_file'
            )


def _missing_in_dataset(dataset: Any, setting: str) -> Iterator[str]:
    # With backend_args the paths may be mapped to another storage.
    if not isinstance(dataset, dict) or dataset.get('backend_args'):
        return
    if 'dataset' in dataset:  # RepeatDataset, ClassBalancedDataset, ...
        yield from _missing_in_dataset(dataset['dataset'], f'{setting}.dataset')
    for i, part in enumerate(dataset.get('datasets', [])):  # ConcatDataset
        yield from _missing_in_dataset(part, f'{setting}.datasets.{i}')

    root = dataset.get('data_root') or ''
    problems = list(_missing_path(root, f'{setting}.data_root'))
    if not problems:
        if dataset.get('ann_file'):
            problems += _missing_path(_join(root, dataset['ann_file']), f'{setting}.ann_file')
        prefix = dataset.get('data_prefix') or {}
        for key, folder in (prefix if isinstance(prefix, dict) else {'': prefix}).items():
            where = f'{setting}.data_prefix.{key}'.rstrip('.')
            problems += _missing_path(_join(root, folder), where)
    yield from problems


def _join(root: str, path: Any) -> Any:
    if not isinstance(path, str) or '://' in path:
        return path
    return os.path.join(root, path)


def _missing_path(path: Any, setting: str) -> Iterator[str]:
    # Nothing to see from here: no setting, or a path such as s3://...
    if not isinstance(path, str) or not path or '://' in path:
        return
    if not os.path.exists(path):
        yield f'{path} does not exist ({setting})'
    elif os.path.isdir(path) and not any(os.scandir(path)):
        yield f'{path} is empty ({setting})'


def check_categories(cfg: Config, loops: Sequence[str]) -> None:
    """Compare the categories of COCO files with the classes of their data sets.

    mmdet numbers its labels as the file lists its categories, and silently leaves out objects of
    categories that it does not know.

    Raises:
        ValueError: with the file and the setting, if they are not the same in the same order, if a
            file is cut off, or if an evaluator reads another file than its data set.
    """
    scope = cfg.get('default_scope')
    for loop in loops:
        dataloader = cfg.get(f'{loop}_dataloader')
        if scope != 'mmdet' or not isinstance(dataloader, dict):
            continue
        if cfg.get(f'{loop}_cfg') is None:
            continue
        files = set()
        for setting, dataset in walk(dataloader.get('dataset'), f'{loop}_dataloader.dataset'):
            if dataset.get('type') not in COCO_DATASET:
                continue
            path = _join(dataset.get('data_root') or '', dataset.get('ann_file') or '')
            if not os.path.isfile(path) or dataset.get('backend_args'):
                continue
            files.add(os.path.realpath(path))
            classes = classes_of(dataset, scope)
            if classes is not None:
                _compare(setting, path, classes, bool(dataset.get('metainfo')))
        evaluators = cfg.get(f'{loop}_evaluator')
        is_list = isinstance(evaluators, (list, tuple))
        for evaluator in evaluators if is_list else [evaluators]:
            path = (evaluator or {}).get('ann_file')
            if path and files and os.path.isfile(path) and os.path.realpath(path) not in files:
                raise ValueError(
                    f'{loop}_evaluator.ann_file={path}, but {loop}_dataloader.dataset reads '
                    f'{", ".join(files)}'
                )


def _compare(setting: str, path: str, classes: Sequence[str], is_given: bool) -> None:
    names = category_names(path)
    known = [name for name in names if name in classes]
    if known == list(classes):
        return
    whose = 'given in its metainfo' if is_given else "COCO's, as it has no metainfo"
    if sorted(known) == sorted(classes):
        problem = 'in another order'
    else:
        lacking = [name for name in classes if name not in names]
        problem = f'without {", ".join(lacking[:3])}' + (', ...' if len(lacking) > 3 else '')
    raise ValueError(
        f'{setting}: its classes are {whose}, and {path} has them {problem}: '
        f'{", ".join(names[:5])}{", ..." if len(names) > 5 else ""}. Write '
        'metainfo=dict(classes=(...)) with the names of the file in its order, or use --data.'
    )


def category_names(path: str | os.PathLike) -> list[str]:
    """The names of a COCO file's categories, in its order; the rest of it is not read."""
    with open(path, 'rb') as file:
        if os.path.getsize(path) == 0:
            raise ValueError(f'{path} is empty')
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content[-64:].rstrip()[-1:] != b'}':
                raise ValueError(
                    f'{path} is not valid JSON, or was cut off: it does not end in }}'
                )
            at = content.find(b'"categories"')
            while at >= 0:
                start = content.find(b'[', at)
                text = content[start : start + 2**24].decode(errors='ignore')
                try:
                    return [x['name'] for x in json.JSONDecoder().raw_decode(text)[0]]
                except (ValueError, TypeError, KeyError):  # another entry of that name
                    at = content.find(b'"categories"', at + 1)
    raise ValueError(f'{path} has no categories')
