"""``--cfg-options``: changes to the settings of a config."""

from __future__ import annotations

import argparse
import inspect
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from mlp_backbones.spelling import did_you_mean

# The settings that hold paths below a config's data_root.
DATA_SECTIONS = (
    'train_dataloader',
    'val_dataloader',
    'test_dataloader',
    'val_evaluator',
    'test_evaluator',
)

# The settings that a config may have at its top without stating them.
RUNNER = {*inspect.signature(Runner.__init__).parameters, 'auto_scale_lr', 'tta_model'}
RUNNER |= {'tta_pipeline', 'find_unused_parameters', 'sync_bn', 'model_wrapper_cfg', 'compile'}
RUNNER |= {'runner_type', 'strategy'}  # the latter is FlexibleRunner's


class CfgOptions(DictAction):
    """mmengine's DictAction, for which ``--cfg-options a`` is a traceback."""

    def __call__(self, parser, namespace, values, option_string=None):
        for value in values:
            if '=' not in value:
                raise argparse.ArgumentError(self, f'{value!r} is not KEY=VALUE')
        super().__call__(parser, namespace, values, option_string)


def apply_options(cfg: Config, options: dict[str, Any]) -> None:
    """Merge ``--cfg-options`` into ``cfg``.

    ``data_root`` moves every data set, which a plain merge does not: a config copies that
    variable into its data sets when it is read. Longer names, such as
    ``val_dataloader.dataset.data_root``, are merged after it and win.

    Raises:
        ValueError: a name looks like a misspelling, or a value does not fit.
    """
    if 'data_root' in options:
        old, new = cfg.get('data_root'), options['data_root']
        if not isinstance(new, str):
            raise ValueError(f'data_root={new!r} is not a path')
        if not old:
            raise ValueError(
                f'data_root={new} was given, but {cfg.filename} has no '
                'top-level data_root that it could replace; set '
                'train_dataloader.dataset.data_root and the like instead'
            )
        for section in DATA_SECTIONS:
            if section in cfg:
                cfg[section] = move_data_root(cfg[section], old, new)
    for key in options:
        check_key(cfg, key)
    try:
        cfg.merge_from_dict(options)
    except (AttributeError, KeyError, TypeError) as error:
        given = ' '.join(f'{key}={value}' for key, value in options.items())
        raise ValueError(f'--cfg-options {given} does not fit {cfg.filename}: {error}') from error


def check_key(cfg: Config, key: str) -> None:
    """Raise ValueError if nothing reads a setting of this name at the top of a config, or if a
    part of it, which the config does not have, is like one that it has.
    """
    node: Any = cfg._cfg_dict
    parts = key.split('.')
    for i, part in enumerate(parts):
        if not isinstance(node, dict):
            return  # an index into a list
        if part not in node:
            known = {*node} if i else {*node, *RUNNER}
            hint = did_you_mean(part, known, cutoff=0.85)
            if part not in known and (hint or i == 0):
                name = '.'.join(parts[: i + 1])
                raise ValueError(f'--cfg-options {key}: the config has no {name}{hint}')
            return
        node = node[part]


def move_data_root(node: Any, old: str, new: str) -> Any:
    """A copy of a piece of config with every path at or below ``old`` moved
    to the same place at or below ``new``; nothing else changes."""
    if isinstance(node, dict):
        return type(node)({key: move_data_root(value, old, new) for key, value in node.items()})
    if isinstance(node, (list, tuple)):
        return type(node)(move_data_root(value, old, new) for value in node)
    if isinstance(node, str):
        below = node.removeprefix(old.rstrip('/'))
        if node.startswith(old.rstrip('/')) and below[:1] in ('', '/'):
            return new.rstrip('/') + below or '/'
    return node
