"""Models and inferencers of checkpoints, without running the code that may be in them."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.config import Config
from torch import Tensor, nn

from ..checkpoints import find_weights, read_checkpoint, safe_loading
from ..checkpoints.plain_config import config_of
from ..engine.checkpoint_fit import check_fit
from ..environment import require
from .model_zoo import find_model, is_name


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
            weights for a part of the model, or weights of other shapes.
    """
    cfg, checkpoint, weights = _open(checkpoint, config, cfg_options)
    if cfg.get('default_scope') == 'mmseg':
        from mmseg.apis import init_model as init
    else:
        from mmdet.apis import init_detector as init
    with safe_loading():
        model = init(cfg, checkpoint, device=device or _default_device())
    check_fit(model, weights, whole=True)
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
    cfg, checkpoint, weights = _open(checkpoint, config, cfg_options)
    if cfg.get('default_scope') == 'mmseg':
        from mmseg.apis import MMSegInferencer as Inferencer
    else:
        from mmdet.apis import DetInferencer as Inferencer
    with safe_loading():
        infer = Inferencer(cfg, checkpoint, device=device or _default_device(), **kwargs)
    check_fit(infer.model, weights, whole=True)
    return infer


def _open(
    checkpoint: str, config: str | Path | Config | None, cfg_options: dict | None
) -> tuple[Config, str, dict[str, Tensor]]:
    """The config, given or from the checkpoint, where that is, and the weights."""
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
    return cfg, checkpoint, find_weights(content)


def _default_device() -> str:
    return 'cuda:0' if torch.cuda.is_available() else 'cpu'
