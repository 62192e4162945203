"""Models and inferencers of checkpoints, without running the code that may be in them."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.config import Config
from torch import nn

from ..checkpoints import CheckpointError, find_weights, read_checkpoint, safe_loading
from ..checkpoints.plain_config import config_of
from ..engine.checkpoint_fit import check_fit
from ..engine.config_check import meta_of_test, walk
from ..environment import require
from .model_zoo import find_model, is_name

OF_ANNOTATIONS = ('LoadAnnotations', 'SetLabelMap')  # steps of a pipeline


def init_model(
    checkpoint: str,
    config: str | Path | Config | None = None,
    device: str | None = None,
    cfg_options: dict | None = None,
) -> nn.Module:
    """A detector or segmentor with the weights of a checkpoint, to be used with
    ``mmdet.apis.inference_detector`` or ``mmseg.apis.inference_model``.

    Args:
        checkpoint: Path or address of the checkpoint, or a name of docs/model_zoo.md.
        config: The config that it was trained with. Default: the one in the checkpoint, which is
            read as data; of a name, its own.
        device: Default: 'cuda:0' if there is a GPU, else 'cpu'.
        cfg_options: What to change in the config: ``{'model.test_cfg.rcnn.score_thr': 0.5}``.

    Raises:
        FileNotFoundError, ConnectionError: if there is no such checkpoint or config.
        CheckpointError: if the checkpoint holds more than data, no config that can be taken, no
            weights for a part of the model, weights of other shapes, or other classes than the
            config.
    """
    cfg, checkpoint, content = _open(checkpoint, config, cfg_options)
    if cfg.get('default_scope') == 'mmseg':
        from mmseg.apis import init_model as init
    else:
        from mmdet.apis import init_detector as init
    with safe_loading():
        model = init(cfg, checkpoint, device=device or default_device())
    check_fit(model, find_weights(content), whole=True)
    _set_classes(model, content, cfg)
    return model


def inferencer(
    checkpoint: str,
    config: str | Path | Config | None = None,
    device: str | None = None,
    cfg_options: dict | None = None,
    **kwargs,
):
    """mmdet's ``DetInferencer`` or mmseg's ``MMSegInferencer`` of a checkpoint.

    Args:
        checkpoint, config, device, cfg_options: as of :func:`init_model`.
        kwargs: Other arguments of the inferencer, such as ``palette``.

    Raises:
        As :func:`init_model`.

    Example:
        >>> inferencer('work_dirs/demo/epoch_12.pth')('image.jpg', out_dir='out')
    """
    cfg, checkpoint, content = _open(checkpoint, config, cfg_options)
    if cfg.get('default_scope') == 'mmseg':
        from mmseg.apis import MMSegInferencer as Inferencer
    else:
        from mmdet.apis import DetInferencer as Inferencer
    with safe_loading():
        infer = Inferencer(cfg, checkpoint, device=device or default_device(), **kwargs)
    check_fit(infer.model, find_weights(content), whole=True)
    return infer


def _open(
    checkpoint: str, config: str | Path | Config | None, cfg_options: dict | None
) -> tuple[Config, str, dict]:
    """The config, given or from the checkpoint, where that is, and what is in it."""
    if is_name(checkpoint):
        path, checkpoint = find_model(checkpoint)
        config = path if config is None else config
    content = read_checkpoint(checkpoint)
    if config is None:
        cfg = config_of(content, checkpoint)
    else:
        cfg = config.copy() if isinstance(config, Config) else Config.fromfile(config)
    require('mmseg' if cfg.get('default_scope') == 'mmseg' else 'mmdet')
    if cfg_options:
        cfg.merge_from_dict(cfg_options)
    if cfg.get('default_scope') == 'mmseg' and 'test_pipeline' not in cfg:
        # mmseg.apis.inference_model looks for it here, first of all for what loads an image
        for _, part in walk(cfg.get('test_dataloader')):
            if 'pipeline' in part:
                names = (str(x['type']).rpartition('.')[2] for x in part['pipeline'])
                steps = zip(part['pipeline'], names, strict=True)
                cfg.test_pipeline = [x for x, name in steps if name not in OF_ANNOTATIONS]
                break
    _check_classes(content, cfg, checkpoint)
    return cfg, checkpoint, content


def _classes_of_checkpoint(content: dict) -> list[str] | None:
    meta = content.get('meta')
    meta = meta if isinstance(meta, dict) else {}
    data = meta.get('dataset_meta')
    found = data if isinstance(data, dict) else meta
    classes = found.get('classes', found.get('CLASSES'))
    return list(map(str, classes)) if isinstance(classes, (list, tuple)) else None


def _check_classes(content: dict, cfg: Config, checkpoint: str) -> None:
    """Raise CheckpointError if the checkpoint and the config name different classes."""
    theirs, meta = _classes_of_checkpoint(content), meta_of_test(cfg)
    ours = list(map(str, meta['classes'])) if meta else None
    if theirs is None or ours is None or theirs == ours:
        return

    def short(names: list[str]) -> str:
        return f'{len(names)} classes ({", ".join(names[:3])}{", ..." if len(names) > 3 else ""})'

    first = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), 3)
    where = f'; the first that differs is number {first}' if first > 2 else ''
    raise CheckpointError(
        f'{checkpoint} was trained for {short(theirs)}, the config is for {short(ours)}'
        f'{where}. Give the config that it was trained with, which is in its work dir, or none.'
    )


def _set_classes(model: nn.Module, content: dict, cfg: Config) -> None:
    """Name the classes as the config does, where the checkpoint does not: mmdet and mmseg then
    take COCO's or Cityscapes'.
    """
    meta = meta_of_test(cfg)
    if meta and _classes_of_checkpoint(content) is None:
        model.dataset_meta = dict(classes=meta['classes'], palette=meta.get('palette'))


def default_device() -> str:
    return 'cuda:0' if torch.cuda.is_available() else 'cpu'
