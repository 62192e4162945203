"""Every config builds its model; every family trains and predicts in both tasks."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from mlp_backbones.engine import launch

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(p for p in (ROOT / 'configs').rglob('*.py') if '_base_' not in p.parts)
DEMOS = [p for p in CONFIGS if p.parent.name == 'demo']


def by_name(paths):
    return pytest.mark.parametrize('path', paths, ids=lambda p: str(p.relative_to(ROOT))[8:-3])


@by_name(CONFIGS)
def test_every_config_builds_its_model(path):
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert type(model.backbone).__module__.startswith('mlp_backbones.')


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp('demo')
    command = [sys.executable, ROOT / 'tools/make_demo_data.py', root / 'data']
    subprocess.run([*command, '--train', '4', '--val', '2'], check=True)
    return root / 'data'


@by_name(DEMOS)
def test_a_training_step_and_a_prediction_on_the_demo_data(path, data_root, tmp_path):
    cfg = launch.load_config(path, {'data_root': str(data_root), 'work_dir': str(tmp_path)})
    for dataloader in (cfg.train_dataloader, cfg.val_dataloader):
        dataloader.batch_size = 2
    runner = Runner.from_cfg(cfg)

    loader = runner.build_dataloader(cfg.train_dataloader)
    model = runner.model.train()
    data = model.data_preprocessor(next(iter(loader)), training=True)
    losses = model(**data, mode='loss')
    loss, log = model.parse_losses(losses)
    loss.backward()
    assert loss.isfinite() and len(log) > 1
    for name, param in model.named_parameters():
        assert param.grad is not None and param.grad.isfinite().all(), name

    metrics = runner.val()
    expected = 'coco/segm_mAP_50' if cfg.default_scope == 'mmdet' else 'mIoU'
    assert 0 <= metrics[expected] <= 100
    samples = model.eval().val_step(next(iter(runner.val_dataloader)))
    assert len(samples) == 2
    if cfg.default_scope == 'mmdet':
        masks = samples[0].pred_instances.masks
        assert masks.shape[1:] == (128, 128)
    else:
        assert samples[0].pred_sem_seg.data.shape == (1, 128, 128)
