"""Puts a folder of images into a config of mmdet: into data sets, evaluators and heads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from mlp_backbones.engine.config_check import CLASSIFIERS, walk

from .coco import CocoFolder, find_coco

# What a data set of the config says about its images, and not about where they are.
KEPT = ('pipeline', 'filter_cfg', 'test_mode', 'serialize_data', 'lazy_init', 'max_refetch')


def use_data(
    cfg: Config,
    folder: str | Path,
    work_dir: str | Path,
    val_fraction: float = 0.2,
    seed: int = 0,
) -> CocoFolder:
    """Change ``cfg``, any config of mmdet, to train and evaluate on the data of a folder.

    The names of the classes, and their order, come from the annotations. They go into the data
    sets, and so into the checkpoint and to the visualizer; their number goes into the heads. Where
    the objects have boxes only, a mask head of a two-stage detector is taken away.

    Args:
        cfg: Changed in place; as it then is, it needs no folder any more.
        folder: With COCO annotations; see :func:`find_coco` for where.
        work_dir: Where files go that have to be written, in ``data/``: the two parts of a data set
            that has none for validation.
        val_fraction: The share of the images that are for validation then.
        seed: What decides which.

    Returns:
        What was found; its ``table()`` has the classes and counts.

    Raises:
        FileNotFoundError: what the folder should have is not there.
        ValueError: the annotations are wrong, or the config cannot be trained on them.

    Example:
        >>> cfg = Config.fromfile('mlp_backbones/.mim/configs/gmlp_maskrcnn_coco.py')
        >>> print(use_data(cfg, 'cells/', cfg.work_dir).table())
    """
    scope = cfg.get('default_scope')
    if scope != 'mmdet':
        raise ValueError(f'a data folder goes into configs of mmdet; {cfg.filename} is of {scope}')
    _refuse_other_tasks(cfg)
    found = find_coco(folder, Path(work_dir).resolve() / 'data', val_fraction, seed)
    if not found.has_masks:
        _boxes_only(cfg)
    _set_classes(cfg.model, len(found.classes))

    of_loop = dict(train='train', val='val', test='test' if 'test' in found.parts else 'val')
    for loop, part_name in of_loop.items():
        part = found.parts[part_name]
        loader = cfg.get(f'{loop}_dataloader')
        if loader:
            loader.dataset = _with_part(loader.dataset, part, found.classes)
        if cfg.get(f'{loop}_evaluator'):
            given = cfg[f'{loop}_evaluator']
            cfg[f'{loop}_evaluator'] = _evaluator(given, part.ann_file, found.has_masks)
    if 'data_root' in cfg:
        cfg.data_root = f'{Path(folder).resolve()}/'
    return found


def _refuse_other_tasks(cfg: Config) -> None:
    for setting, part in walk(cfg.model, 'model'):
        for key in ('semantic_head', 'language_model', 'text_encoder', 'panoptic_fusion_head'):
            if key in part:
                raise ValueError(
                    f'{cfg.filename} needs more than boxes and masks: it has {setting}.{key}'
                )


def _boxes_only(cfg: Config) -> None:
    """Take masks out of a config whose model can do without."""
    roi_head = cfg.model.get('roi_head', {})
    others = {'mask_iou_head', 'point_head'} & roi_head.keys()
    if others or cfg.model.get('mask_head') or cfg.model.get('panoptic_head'):
        raise ValueError(
            f'{cfg.filename} predicts masks, and the objects of the data have boxes only; take a '
            'config of boxes, or one whose model.roi_head.mask_head can be left out'
        )
    for key in ('mask_head', 'mask_roi_extractor'):
        roi_head.pop(key, None)
    for _, part in walk(cfg._cfg_dict):
        if part.get('with_mask'):
            part['with_mask'] = False


def _set_classes(model: ConfigDict, count: int) -> None:
    for setting, part in walk(model, 'model'):
        given = part.get('num_classes')
        if isinstance(given, int) and any(
            key in CLASSIFIERS['mmdet'] for key in setting.split('.')[-2:]
        ):
            part['num_classes'] = count
            for inner, loss in walk(part, setting):
                weights = loss.get('class_weight')
                if isinstance(weights, (list, tuple)):
                    loss['class_weight'] = _resized(weights, given, count, inner)


def _resized(weights: list | tuple, given: int, count: int, setting: str) -> list:
    """Weights of as many classes, if they are all alike; one of the background may follow."""
    classes, rest = list(weights[:given]), list(weights[given:])
    if len(classes) < given or len(rest) > 1 or len({*classes}) > 1:
        raise ValueError(
            f'{setting}.class_weight is for {given} other classes; leave it out, or give '
            f'{count} weights'
        )
    return classes[:1] * count + rest


def _with_part(dataset: ConfigDict, part: Any, classes: tuple[str, ...]) -> ConfigDict:
    """The data set of a config, in the same wrappers, of a part of the folder."""
    if 'datasets' in dataset:  # several are one now
        return _with_part(dataset.datasets[0], part, classes)
    if 'dataset' in dataset:
        dataset.dataset = _with_part(dataset.dataset, part, classes)
        return dataset
    return ConfigDict(
        {key: dataset[key] for key in KEPT if key in dataset},
        type='CocoDataset',
        data_root='',
        ann_file=str(part.ann_file),
        data_prefix=dict(img=f'{part.img_dir}{os.sep}'),
        metainfo=dict(classes=classes),
    )


def _evaluator(given: Any, ann_file: Path, has_masks: bool) -> ConfigDict:
    evaluators = given if isinstance(given, (list, tuple)) else [given]
    settings = next((dict(x) for x in evaluators if x.get('type') == 'CocoMetric'), {})
    metrics = settings.get('metric', 'bbox')
    metrics = [metrics] if isinstance(metrics, str) else list(metrics)
    settings.update(
        type='CocoMetric',
        ann_file=str(ann_file),
        metric=[x for x in metrics if has_masks or x != 'segm'],
        format_only=False,
        backend_args=None,
    )
    settings.pop('outfile_prefix', None)
    return ConfigDict(settings)
