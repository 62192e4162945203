"""Whether the parts of a config exist and fit together, before they are built and data is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import mmengine.registry
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, RUNNERS, Registry

from mlp_backbones.models.backbones.base import Backbone
from mlp_backbones.registry import MODELS as OURS
from mlp_backbones.spelling import did_you_mean

HEADS = ('decode_head', 'auxiliary_head')
# Of these, each predicts the classes of the data; others have classes of their own.
CLASSIFIERS = dict(mmdet=('bbox_head', 'mask_head'), mmseg=('decode_head',))


def check_config(cfg: Config) -> None:
    """Check a config of mmdet or mmseg.

    Raises:
        ValueError: with the setting that is wrong, what it is and what it should be.
    """
    if not isinstance(cfg.get('model'), Mapping):
        raise ValueError(f'{cfg.filename} has no model')
    check_runner(cfg)
    check_types(cfg)
    check_model(cfg)
    check_classes(cfg)
    check_save_best(cfg)


def walk(node: Any, setting: str = '') -> Iterator[tuple[str, Mapping]]:
    """Every dict in a piece of config, with the setting that it is."""
    if isinstance(node, Mapping):
        yield setting, node
    items = node.items() if isinstance(node, Mapping) else ()
    for key, value in enumerate(node) if isinstance(node, (list, tuple)) else items:
        yield from walk(value, f'{setting}.{key}'.lstrip('.'))


def check_runner(cfg: Config) -> None:
    """Raise ValueError at a ``runner_type`` that nobody has registered."""
    kind = cfg.get('runner_type', 'Runner')
    registries = (RUNNERS, *RUNNERS.children.values())
    known = {name for registry in registries for name in registry.module_dict}
    if str(kind).rpartition('.')[2] not in known:
        raise ValueError(
            f'runner_type={kind!r} does not exist; there are {", ".join(sorted(known))}. A class '
            "of your own registers itself in mmengine's RUNNERS, in a module that the config's "
            'custom_imports name.'
        )


def check_types(cfg: Config) -> None:
    """Raise ValueError at a class that looks like a misspelling of an existing one. Any other
    unknown name is left to whoever builds it.
    """
    scope = cfg.get('default_scope')
    scopes = ('mmengine', 'mlp_backbones', scope)
    if scope not in CLASSIFIERS:
        return
    import_module(f'{scope}.registry')
    known = set()
    for root in vars(mmengine.registry).values():
        if isinstance(root, Registry):
            for registry in (root, *map(root.children.get, scopes[1:])):
                if registry is not None:
                    registry.import_from_location()
                    known |= registry.module_dict.keys()
    for setting, part in walk(cfg._cfg_dict):
        kind = part.get('type')
        if not isinstance(kind, str):
            continue
        prefix, _, name = kind.rpartition('.')
        if name in known or name.islower() or prefix and prefix not in scopes:
            continue  # "nms" and "conv" are no classes
        hint = did_you_mean(name, known, cutoff=0.75)
        if hint:
            raise ValueError(f'{setting}.type={kind!r} does not exist{hint}')


def check_classes(cfg: Config) -> None:
    """Compare the classes of the training data with those that the heads predict."""
    scope = cfg.get('default_scope')
    model, data = cfg.model, cfg.get('train_dataloader') or {}
    # With the latter two, classes are texts.
    if scope not in CLASSIFIERS or 'language_model' in model or 'text_encoder' in model:
        return
    for where, dataset in walk(data.get('dataset'), 'train_dataloader.dataset'):
        classes = classes_of(dataset, scope)
        if classes is None:
            continue
        for setting, part in walk(model, 'model'):
            is_head = any(key in CLASSIFIERS[scope] for key in setting.split('.')[-2:])
            count = part.get('num_classes')
            if is_head and isinstance(count, int) and count != len(classes):
                raise ValueError(
                    f'{setting}.num_classes={count}, but {where} has {len(classes)} classes: '
                    f'{", ".join(map(str, classes[:3]))}, ...'
                )


def check_save_best(cfg: Config) -> None:
    """Whether the metric by which the best checkpoint is kept is one that is measured: else the
    first evaluation ends the training.
    """
    best = (cfg.get('default_hooks') or {}).get('checkpoint', {}).get('save_best')
    evaluator = cfg.get('val_evaluator')
    if not isinstance(best, str) or not isinstance(evaluator, Mapping):
        return
    measured = {
        'CocoMetric': ('bbox_', 'segm_', evaluator.get('metric', 'bbox')),
        'IoUMetric': ('mIoU', 'mDice', evaluator.get('iou_metrics', ['mIoU'])),
    }.get(str(evaluator.get('type')).rpartition('.')[2])
    if measured is None:
        return
    *names, metrics = measured
    metrics = [metrics] if isinstance(metrics, str) else list(metrics)
    kind = best.rpartition('/')[2]
    if any(kind.startswith(name) and name.rstrip('_') not in metrics for name in names):
        raise ValueError(
            f'default_hooks.checkpoint.save_best={best!r} is not measured: val_evaluator has '
            f'{", ".join(metrics)}'
        )


def classes_of(dataset: Mapping, scope: str) -> list | tuple | None:
    """The names that a data set gives its classes, or None if that is not known."""
    classes = meta_of(dataset, scope).get('classes')
    return classes if isinstance(classes, (list, tuple)) else None


def meta_of(dataset: Mapping, scope: str) -> dict:
    """The classes and the palette of a data set: the config's, else those of its type."""
    kind = dataset.get('type')
    if isinstance(kind, str):
        kind = DATASETS.get(kind if '.' in kind else f'{scope}.{kind}')
    meta = dict(getattr(kind, 'METAINFO', {}))
    if 'thing_classes' in meta:
        meta['classes'] = meta['thing_classes']
    return meta | dict(dataset.get('metainfo') or {})


def meta_of_test(cfg: Config) -> dict | None:
    """The classes and the palette of the first data set of the test that has classes."""
    scope = cfg.get('default_scope', 'mmdet')
    for _, dataset in walk((cfg.get('test_dataloader') or {}).get('dataset')):
        if classes_of(dataset, scope) is not None:
            return meta_of(dataset, scope)
    return None


def check_model(cfg: Config) -> None:
    """Build the backbone, if it is one of ours, without memory for its weights, and compare its
    maps with what the neck or the heads of a segmentor take.

    Raises:
        ValueError: with the setting that is wrong, what it is and what it should be.
    """
    model = cfg.model
    backbone = model.get('backbone')
    if not isinstance(backbone, Mapping):
        return
    kind = getattr(backbone.get('type'), '__name__', str(backbone.get('type')))
    scope, _, name = kind.rpartition('.')
    if name not in OURS.module_dict:
        if scope == OURS.scope:
            known = ', '.join(sorted(OURS.module_dict))
            raise ValueError(f'model.backbone.type={kind!r} does not exist; there are {known}')
        return
    if model.get('pretrained'):  # which mmseg hands on
        backbone = {**backbone, 'pretrained': model['pretrained']}
    try:
        with torch.device('meta'):
            built = MODELS.build(dict(backbone)).eval()
            if not isinstance(built, Backbone):  # somebody else's of that name
                return
            image = torch.zeros(1, built.in_channels, 64, 64)
            channels = [x.shape[1] for x in built(image)]
    except (TypeError, ValueError) as error:
        raise ValueError(f'model.backbone: {_last_line(error)}') from error
    where = f'maps of {channels} channels (out_indices={tuple(built.out_indices)})'
    neck = model.get('neck')
    if isinstance(neck, (list, tuple)):
        neck = neck[0]
    if neck is None:
        for name in HEADS:
            heads = model.get(name) or []
            for head in heads if isinstance(heads, (list, tuple)) else [heads]:
                _check_head(f'model.{name}', head, channels, where)
    elif isinstance(neck, Mapping):
        taken = neck.get('in_channels')
        if isinstance(taken, int):
            taken = [taken]
        if taken is not None and list(taken) != channels:
            raise ValueError(
                f"model.neck.in_channels={neck['in_channels']} does not fit: the backbone's are "
                f'{where}.'
            )


def _check_head(setting: str, head: Mapping, channels: list[int], where: str) -> None:
    given, index = head.get('in_channels'), head.get('in_index', -1)
    if given is None:
        return
    indices = [index] if isinstance(index, int) else list(index)
    if max(indices) >= len(channels):
        raise ValueError(f"{setting}.in_index={index} is beyond the backbone's {where}.")
    wanted = [channels[i] for i in indices]
    if ([given] if isinstance(given, int) else list(given)) != wanted:
        raise ValueError(
            f'{setting}.in_channels={given} does not fit: its in_index={index} takes {wanted} of '
            f"the backbone's {where}."
        )


def _last_line(error: Exception) -> str:
    """mmengine puts a class, a path and the text into one message."""
    return str(error).strip('"\'').splitlines()[-1]
