"""Puts a folder of images into a config: into its data sets, evaluators and heads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mlp_backbones.engine.config_check import CLASSIFIERS, walk

from .coco import CocoFolder, Part, find_coco
from .masks import IGNORE, MaskFolder, MaskPart, find_masks

# What a data set of the config says about its images, and not about where they are.
KEPT = ('filter_cfg', 'test_mode', 'serialize_data', 'lazy_init', 'max_refetch')
SET_LABEL_MAP = 'mlp_backbones.SetLabelMap'
# The class of each label where label 0 alone is ignored: what mmseg's reduce_zero_label makes.
_WITHOUT_0 = [IGNORE, *range(254)]


def use_data(
    cfg: Config,
    folder: str | Path,
    work_dir: str | Path,
    val_fraction: float = 0.2,
    seed: int = 0,
    skip_broken: bool = False,
) -> CocoFolder | MaskFolder:
    """Change ``cfg``, any config of mmdet or mmseg, to train and evaluate on a folder's data.

    The names of the classes, and their order, come from the data. They go into the data sets, and
    so into the checkpoint and to the visualizer; their number goes into the heads. If the objects
    have only boxes, the mask head of a two-stage detector is removed.

    Args:
        cfg: Changed in place; it then no longer needs the folder.
        folder: With COCO annotations, see :func:`find_coco`, or for mmseg with label maps, see
            :func:`find_masks`.
        work_dir: New files go into its ``data/``: the parts of a data set
            that has none for validation.
        val_fraction: The share of the images that are for validation then.
        seed: What decides which.
        skip_broken: Only warn of training images that are missing or broken, and of broken label
            maps, which ``BadDataHook(skip=True)`` leaves out.

    Returns:
        What was found; its ``table()`` has the classes and counts.

    Raises:
        FileNotFoundError: what the folder should have is not there.
        ValueError: the data is wrong, or the config cannot be trained on it.

    Example:
        >>> cfg = Config.fromfile('mlp_backbones/.mim/configs/gmlp_maskrcnn_coco.py')
        >>> print(use_data(cfg, 'cells/', cfg.work_dir).table())
    """
    scope = cfg.get('default_scope')
    if scope not in CLASSIFIERS:
        raise ValueError(
            f'a data folder goes into configs of {" and ".join(CLASSIFIERS)}; {cfg.filename} is '
            f'of {scope}'
        )
    _refuse_other_tasks(cfg)
    out = Path(work_dir).resolve() / 'data'
    if scope == 'mmdet':
        found = find_coco(folder, out, val_fraction, seed, skip_broken)
        if not found.has_masks:
            _boxes_only(cfg)
    else:
        found = find_masks(folder, out, val_fraction, seed, skip_broken)
        for _, step in walk(cfg._cfg_dict):
            if step.get('type') == 'LoadAnnotations':
                step.pop('reduce_zero_label', None)  # the data set says it
        if 'tta_pipeline' in cfg:
            cfg.tta_pipeline = [*_label_map(found), *_without_label_map(cfg.tta_pipeline)]
    _set_classes(cfg.model, CLASSIFIERS[scope], len(found.classes))

    for loop in ('train', 'val', 'test'):
        part = found.parts.get(loop, found.parts['val'])
        if cfg.get(f'{loop}_dataloader'):
            settings = _coco(found, part) if scope == 'mmdet' else _maps(found, part)
            loader = cfg[f'{loop}_dataloader']
            loader.dataset = _with_settings(loader.dataset, settings)
            if loop == 'train' and part.count > 1 == part.count % (loader.get('batch_size') or 1):
                # Batch norm cannot train on one image; torch takes one of the two settings.
                (loader.get('batch_sampler') or loader).drop_last = True
        if cfg.get(f'{loop}_evaluator'):
            given = cfg[f'{loop}_evaluator']
            given = given if isinstance(given, (list, tuple)) else [given]
            if scope == 'mmdet':
                cfg[f'{loop}_evaluator'] = _coco_metric(given, part.ann_file, found.has_masks)
            else:
                kept = [x for x in given if x.get('type') == 'IoUMetric']
                cfg[f'{loop}_evaluator'] = kept or dict(type='IoUMetric', iou_metrics=['mIoU'])
    if 'data_root' in cfg:
        cfg.data_root = f'{Path(folder).resolve()}{os.sep}'
    return found


def _refuse_other_tasks(cfg: Config) -> None:
    for setting, part in walk(cfg.model, 'model'):
        for key in ('semantic_head', 'language_model', 'text_encoder', 'panoptic_fusion_head'):
            if key in part:
                raise ValueError(
                    f'{cfg.filename} needs more than boxes and masks: it has {setting}.{key}'
                )


def _boxes_only(cfg: Config) -> None:
    """Remove masks from a config whose model works without them."""
    roi_head = cfg.model.get('roi_head', {})
    others = {'mask_iou_head', 'point_head'} & roi_head.keys()
    if others or cfg.model.get('mask_head') or cfg.model.get('panoptic_head'):
        raise ValueError(
            f'{cfg.filename} predicts masks, but the objects of the data have only boxes; take a '
            'config for boxes, or one whose model.roi_head.mask_head can be left out'
        )
    for key in ('mask_head', 'mask_roi_extractor'):
        roi_head.pop(key, None)
    for _, part in walk(cfg._cfg_dict):
        if part.get('with_mask'):
            part['with_mask'] = False


def _set_classes(model: ConfigDict, heads: tuple[str, ...], count: int) -> None:
    """Give the heads this number of classes, and auxiliary heads that had the same number."""
    numbered = [
        (setting, part, set(setting.split('.')[-2:]))
        for setting, part in walk(model, 'model')
        if isinstance(part.get('num_classes'), int)
    ]
    before = {part['num_classes'] for _, part, names in numbered if names & {*heads}}
    for setting, part, names in numbered:
        given = part['num_classes']
        if not names & {*heads} and not ('auxiliary_head' in names and given in before):
            continue
        part['num_classes'] = count
        if part.get('out_channels') in (1, given):  # 1 tells one class from none
            del part['out_channels']
        for inner, loss in walk(part, setting):
            weights = loss.get('class_weight')
            if isinstance(weights, (list, tuple)):
                loss['class_weight'] = _resized(weights, given, count, inner)


def _resized(weights: list | tuple, given: int, count: int, setting: str) -> list:
    """Weights for the new number of classes, if all are equal; one for the background may
    follow.
    """
    classes, rest = list(weights[:given]), list(weights[given:])
    if len(classes) < given or len(rest) > 1 or len({*classes}) > 1:
        raise ValueError(
            f'{setting}.class_weight is for {given} other classes; leave it out, or give '
            f'{count} weights'
        )
    return classes[:1] * count + rest


def _with_settings(dataset: ConfigDict, settings: dict) -> ConfigDict:
    """The data set of a config, in the same wrappers, with other settings."""
    if 'datasets' in dataset:  # several are one now
        return _with_settings(dataset.datasets[0], settings)
    if 'dataset' in dataset:
        dataset.dataset = _with_settings(dataset.dataset, settings)
        return dataset
    pipeline = [*settings.get('pipeline', []), *_without_label_map(dataset.pipeline)]
    kept = {key: dataset[key] for key in KEPT if key in dataset}
    return ConfigDict({**kept, **settings, 'pipeline': pipeline})


def _coco(found: CocoFolder, part: Part) -> dict:
    return dict(
        type='CocoDataset',
        data_root='',
        ann_file=str(part.ann_file),
        data_prefix=dict(img=f'{part.img_dir}{os.sep}'),
        metainfo=dict(classes=found.classes),
    )


def _maps(found: MaskFolder, part: MaskPart) -> dict:
    metainfo = dict(classes=found.classes)
    if found.palette:
        metainfo['palette'] = found.palette
    return dict(
        type='BaseSegDataset',
        ann_file=str(part.ann_file or ''),
        data_prefix=dict(img_path=str(part.img_dir), seg_map_path=str(part.ann_dir)),
        img_suffix=found.img_suffix,
        seg_map_suffix=found.seg_map_suffix,
        metainfo=metainfo,
        reduce_zero_label=found.labels == _WITHOUT_0[: len(found.labels)],
        pipeline=_label_map(found),  # before the config's
    )


def _label_map(found: MaskFolder) -> list[dict]:
    """The step of a pipeline that numbers labels as the classes are, where the data set cannot."""
    changes = [[old, new] for old, new in enumerate(found.labels) if old != new]
    if not changes or found.labels == _WITHOUT_0[: len(found.labels)]:
        return []
    return [dict(type=SET_LABEL_MAP, changes=changes)]


def _without_label_map(pipeline: Sequence[dict]) -> list[dict]:
    return [step for step in pipeline if step.get('type') != SET_LABEL_MAP]


def _coco_metric(evaluators: Sequence[dict], ann_file: Path, has_masks: bool) -> ConfigDict:
    settings = next((dict(x) for x in evaluators if x.get('type') == 'CocoMetric'), {})
    metrics = settings.get('metric', 'bbox')
    metrics = [metrics] if isinstance(metrics, str) else list(metrics)
    settings.update(
        type='CocoMetric',
        ann_file=str(ann_file),
        metric=[x for x in metrics if has_masks or x != 'segm'] or ['bbox'],
        format_only=False,
        backend_args=None,
    )
    settings.pop('outfile_prefix', None)
    return ConfigDict(settings)
