"""Whether the data of a config is where the config says."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.config import Config


def check_data(cfg: Config, loops: Sequence[str]) -> None:
    """Raise FileNotFoundError if data of the loops ('train', 'val', 'test')
    is not there, with each path and the setting that names it."""
    problems = [problem for loop in loops for problem in _missing_data(cfg, loop)]
    if not problems:
        return
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
        for key, folder in (dataset.get('data_prefix') or {}).items():
            problems += _missing_path(_join(root, folder), f'{setting}.data_prefix.{key}')
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
