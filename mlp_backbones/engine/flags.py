"""What the flags of tools/train.py change in a config."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device

from mlp_backbones.checkpoints import own_weights
from mlp_backbones.checkpoints.own_weights import SCHEME

# What --log takes: mmengine's class, and the packages of which it needs one.
LOGGERS = dict(
    tensorboard=('TensorboardVisBackend', ('tensorboard', 'tensorboardX')),
    wandb=('WandbVisBackend', ('wandb',)),
    mlflow=('MLflowVisBackend', ('mlflow',)),
)


# What --amp takes: the class of the optimizer wrapper, and its settings.
AMP = dict(
    fp16=dict(type='AmpOptimWrapper', loss_scale='dynamic'),
    bf16=dict(type='mlp_backbones.BFloat16OptimWrapper'),
)


def enable_amp(cfg: Config, kind: str) -> None:
    """``--amp``: train in float16 with a dynamic loss scale, or in bfloat16."""
    wanted = AMP[kind]
    given = cfg.get('optim_wrapper', {}).get('type', 'OptimWrapper')
    if given not in ('OptimWrapper', wanted['type']):
        raise ValueError(
            f'--amp {kind} changes an optim_wrapper of type OptimWrapper; the config has {given}'
        )
    if given == 'OptimWrapper':
        cfg.optim_wrapper.update(wanted)


def check_amp(cfg: Config) -> None:
    """mmengine's AmpOptimWrapper needs a GPU."""
    kind = cfg.get('optim_wrapper', {}).get('type')
    if kind == 'AmpOptimWrapper' and get_device() in ('cpu', 'mps'):
        raise ValueError(
            'float16 (--amp, or optim_wrapper.type=AmpOptimWrapper) '
            f'needs a GPU, and torch {torch.__version__} finds none here; '
            'use --amp bf16, or leave it out to train in float32'
        )


def start_from_weights(cfg: Config, address: str) -> None:
    """``--pretrained``: start the backbone from a checkpoint, or with 'auto' from the weights that
    this project has for it (docs/weights.md).
    """
    backbone = cfg.get('model', {}).get('backbone')
    if not isinstance(backbone, dict):
        raise ValueError(f'--pretrained: {cfg.filename} has no model.backbone')
    if address == 'auto':
        address = SCHEME + weights_of(backbone)
    init_cfg = dict(type='Pretrained', checkpoint=address)
    if address.startswith(SCHEME):
        init_cfg = own_weights.init_cfg(address.removeprefix(SCHEME))
    backbone.init_cfg = ConfigDict(init_cfg)
    if cfg.model.get('pretrained'):
        cfg.model.pretrained = None


def weights_of(backbone: Mapping) -> str:
    """The name of this project's weights for the backbone of a config."""

    def described(config: Mapping) -> tuple:
        return str(config.get('type')).rpartition('.')[2], config.get('arch')

    for name, model in own_weights.models().items():
        trained = Config.fromfile(own_weights.FOLDER.parent / model['Config']).model.backbone
        if described(trained) == described(backbone):
            return name
    kind, arch = described(backbone)
    known = ', '.join(own_weights.models()) or 'none'
    raise ValueError(
        f'--pretrained: this project has no weights for {kind} {arch}, only {known}; give the '
        'path or address of a checkpoint'
    )


def enable_auto_scale_lr(cfg: Config) -> None:
    """``--auto-scale-lr``: scale the rate with the total batch size."""
    scale = cfg.get('auto_scale_lr')
    if not scale or 'base_batch_size' not in scale:
        raise ValueError(
            f'--auto-scale-lr: {cfg.filename} does not say for which batch '
            'size its learning rate is; add '
            'auto_scale_lr=dict(enable=False, base_batch_size=16) to it'
        )
    cfg.auto_scale_lr.enable = True


def enable_skipping(cfg: Config) -> None:
    """``--skip-broken``: leave broken images out."""
    hook = dict(type='mlp_backbones.BadDataHook', skip=True)
    cfg.default_hooks = dict(cfg.get('default_hooks') or {}, bad_data=hook)


def enable_ema(cfg: Config) -> None:
    """``--ema``: evaluate and save an average of the weights, over the last 1 % of the iterations
    or so.
    """
    hooks = list(cfg.get('custom_hooks') or [])
    if not any(str(hook.get('type')).endswith('EMAHook') for hook in hooks):
        ema = dict(ema_type='MomentumAnnealingEMA', momentum=0.0002, update_buffers=True)
        cfg.custom_hooks = [*hooks, ConfigDict(type='EMAHook', priority=49, **ema)]


def enable_early_stopping(cfg: Config, patience: int) -> None:
    """``--early-stopping``: end a training whose metric has not risen for so many evaluations.

    The metric is that by which the best checkpoint is kept. A thousandth of the best possible
    value (1 for AP, 100 for mIoU) counts as a rise.
    """
    if patience < 1:
        raise ValueError(f'--early-stopping {patience} must be 1 evaluation or more')
    metric = best_metric(cfg)
    hooks = [x for x in cfg.get('custom_hooks') or [] if x.get('type') != 'EarlyStoppingHook']
    hooks.append(
        ConfigDict(
            type='EarlyStoppingHook',
            monitor=metric,
            rule='less' if 'loss' in metric else 'greater',
            patience=patience,
            min_delta=0.001 if '/' in metric or 'loss' in metric else 0.1,
        )
    )
    cfg.custom_hooks = hooks


def best_metric(cfg: Config) -> str:
    """By which the best checkpoint is kept, if the config says, else the evaluator's first AP or
    IoU.
    """
    given = cfg.get('default_hooks', {}).get('checkpoint', {}).get('save_best')
    given = given[0] if isinstance(given, (list, tuple)) else given
    if given and given != 'auto':
        return given
    evaluators = cfg.get('val_evaluator') or {}
    for evaluator in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
        kind = str(evaluator.get('type')).rpartition('.')[2]
        if kind == 'CocoMetric':
            metrics = evaluator.get('metric', 'bbox')
            metric = metrics if isinstance(metrics, str) else metrics[0]
            return f'{evaluator.get("prefix", "coco")}/{metric}_mAP'
        if kind == 'IoUMetric':
            return evaluator.get('iou_metrics', ['mIoU'])[0]
    raise ValueError(
        f'--early-stopping: {cfg.filename} does not say by which metric; set '
        'default_hooks.checkpoint.save_best to its name'
    )


def log_to(cfg: Config, names: Sequence[str]) -> None:
    """``--log``: send losses, metrics and pictures to other programs, too."""
    unknown = [name for name in names if name not in LOGGERS]
    if unknown:
        raise ValueError(
            f'--log {",".join(unknown)} is unknown; choose among {", ".join(LOGGERS)}'
        )
    if not names:
        return
    visualizer = cfg.get('visualizer')
    if not visualizer:
        raise ValueError(f'--log needs a visualizer, which {cfg.filename} does not have')
    backends = list(visualizer.get('vis_backends') or [dict(type='LocalVisBackend')])
    for name in names:
        kind, packages = LOGGERS[name]
        if not any(map(find_spec, packages)):
            raise ImportError(f'--log {name} needs the package {packages[0]}: pip install it')
        if not any(backend['type'] == kind for backend in backends):
            settings = _mlflow(cfg) if name == 'mlflow' else {}
            backends.append(ConfigDict(type=kind, **settings))
    cfg.visualizer.vis_backends = backends


def _mlflow(cfg: Config) -> dict:
    """The server that MLFLOW_TRACKING_URI names, else a file in the work dir: not the folder that
    is mmengine's default, which mlflow no longer writes.
    """
    settings = dict(exp_name='mlp_backbones', run_name=Path(cfg.work_dir).name)
    if 'MLFLOW_TRACKING_URI' in os.environ:
        return dict(settings, tracking_uri=os.environ['MLFLOW_TRACKING_URI'])
    folder = os.path.abspath(cfg.work_dir)
    return dict(
        settings,
        tracking_uri=f'sqlite:///{folder}/mlflow.db',
        artifact_location=f'file://{folder}/mlflow',
    )
