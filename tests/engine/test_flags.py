"""What the flags of tools/train.py change in a config."""

import pytest
from mmengine.config import Config

from mlp_backbones.checkpoints import own_weights
from mlp_backbones.engine import flags


@pytest.mark.parametrize('kind', ['fp16', 'bf16'])
def test_amp_needs_a_plain_optim_wrapper(kind):
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper', clip_grad=dict(max_norm=1))))
    for _ in range(2):
        flags.enable_amp(cfg, kind)
        assert cfg.optim_wrapper == dict(clip_grad=dict(max_norm=1), **flags.AMP[kind])
    cfg.optim_wrapper.type = 'ApexOptimWrapper'
    with pytest.raises(ValueError, match='ApexOptimWrapper'):
        flags.enable_amp(cfg, kind)


def test_pretrained_finds_the_weights_of_a_backbone(monkeypatch):
    entry = {'Config': 'configs/pretrain/gmlp_nano_tiny_imagenet.py'}
    monkeypatch.setattr(own_weights, 'models', lambda: {'small': entry})
    backbone = dict(type='mlp_backbones.GMLP', arch='nano')
    cfg = Config(dict(model=dict(backbone=backbone, pretrained='open-mmlab://resnet')))
    flags.start_from_weights(cfg, 'auto')
    ours = dict(type='Pretrained', checkpoint='mlp_backbones://small', prefix='backbone.')
    assert cfg.model.backbone.init_cfg == ours and cfg.model.pretrained is None
    flags.start_from_weights(cfg, 'mine.pth')
    assert cfg.model.backbone.init_cfg == dict(type='Pretrained', checkpoint='mine.pth')
    cfg.model.backbone.arch = 'tiny'
    with pytest.raises(ValueError, match='this project has no weights for GMLP tiny, only small;'):
        flags.start_from_weights(cfg, 'auto')
    with pytest.raises(ValueError, match='no model.backbone'):
        flags.start_from_weights(Config(), 'auto')


def test_auto_scale_lr_needs_the_batch_size_that_the_rate_is_for():
    cfg = Config(dict(auto_scale_lr=dict(base_batch_size=16)))
    flags.enable_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr.enable
    for settings in (dict(), dict(auto_scale_lr=dict(enable=False))):
        with pytest.raises(ValueError, match='base_batch_size'):
            flags.enable_auto_scale_lr(Config(settings))


def test_ema_is_added_once():
    cfg = Config(dict(custom_hooks=[dict(type='mlp_backbones.ValLossHook')]))
    for _ in range(2):
        flags.enable_ema(cfg)
        assert [hook.type for hook in cfg.custom_hooks] == ['mlp_backbones.ValLossHook', 'EMAHook']
    flags.enable_ema(cfg := Config())
    assert len(cfg.custom_hooks) == 1


COCO = dict(type='CocoMetric', metric=['segm', 'bbox'])
IOU = dict(type='IoUMetric', iou_metrics=['mDice'])


@pytest.mark.parametrize(
    'evaluator, save_best, metric, min_delta',
    [
        (COCO, 'auto', 'coco/segm_mAP', 0.001),
        (dict(type='CocoMetric', metric='bbox'), None, 'coco/bbox_mAP', 0.001),
        ([dict(type='DumpDetResults'), COCO], None, 'coco/segm_mAP', 0.001),
        (COCO, ['coco/bbox_mAP_50'], 'coco/bbox_mAP_50', 0.001),
        (COCO, 'val_loss', 'val_loss', 0.001),
        (dict(type='IoUMetric'), 'auto', 'mIoU', 0.1),
        (IOU, None, 'mDice', 0.1),
    ],
)
def test_early_stopping_waits_for_the_metric_of_the_best_checkpoint(
    evaluator, save_best, metric, min_delta
):
    hooks = dict(checkpoint=dict(save_best=save_best))
    cfg = Config(dict(default_hooks=hooks, val_evaluator=evaluator))
    flags.enable_early_stopping(cfg, 5)
    flags.enable_early_stopping(cfg, 3)
    (hook,) = cfg.custom_hooks
    assert (hook.monitor, hook.min_delta, hook.patience) == (metric, min_delta, 3)
    assert hook.rule == ('less' if 'loss' in metric else 'greater')


def test_early_stopping_needs_a_metric_and_patience():
    with pytest.raises(ValueError, match='does not say by which metric'):
        flags.enable_early_stopping(Config(), 5)
    with pytest.raises(ValueError, match='--early-stopping 0 must be 1 evaluation'):
        flags.enable_early_stopping(Config(), 0)


def test_other_loggers_are_added(monkeypatch):
    cfg = Config(dict(visualizer=dict(type='Visualizer')))
    monkeypatch.setattr(flags, 'find_spec', lambda name: name == 'tensorboardX')
    flags.log_to(cfg, ['tensorboard'])
    flags.log_to(cfg, ['tensorboard'])
    kinds = [backend['type'] for backend in cfg.visualizer.vis_backends]
    assert kinds == ['LocalVisBackend', 'TensorboardVisBackend']
    with pytest.raises(ImportError, match='--log wandb needs the package wandb'):
        flags.log_to(cfg, ['wandb'])
    with pytest.raises(
        ValueError, match='tensorbord is unknown; choose among tensorboard, wandb, mlflow'
    ):
        flags.log_to(cfg, ['tensorbord'])
    with pytest.raises(ValueError, match='--log needs a visualizer'):
        flags.log_to(Config(), ['tensorboard'])


def test_mlflow_writes_into_the_work_dir_or_to_the_users_server(monkeypatch, tmp_path):
    monkeypatch.setattr(flags, 'find_spec', lambda name: True)
    for uri in (None, 'http://server:5000'):
        monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)
        if uri:
            monkeypatch.setenv('MLFLOW_TRACKING_URI', uri)
        cfg = Config(dict(visualizer=dict(type='Visualizer'), work_dir=str(tmp_path / 'run')))
        flags.log_to(cfg, ['mlflow'])
        backend = cfg.visualizer.vis_backends[-1]
        assert backend.tracking_uri == (uri or f'sqlite:///{tmp_path}/run/mlflow.db')
        assert backend.run_name == 'run' and ('artifact_location' in backend) == (uri is None)
