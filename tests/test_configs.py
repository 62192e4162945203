"""Every config builds its model; every family trains and predicts in both tasks."""

import subprocess
import sys
from pathlib import Path

import pytest
import shipped
import torch
from in_process import run_tool
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.utils import get_installed_path
from shipped import CONFIGS, DETECTORS_AND_SEGMENTORS, ROOT

from mlp_backbones.engine import launch

DEMOS = [p for p in CONFIGS if p.parent.name == 'demo']


def by_name(paths):
    return pytest.mark.parametrize('path', paths, ids=shipped.name)


@by_name(DETECTORS_AND_SEGMENTORS)
def test_every_config_builds_its_model(path):
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert type(model.backbone).__module__.startswith('mlp_backbones.')


def config_of(text, folder):
    (folder / 'mine.py').write_text(text)
    return Config.fromfile(folder / 'mine.py')


@by_name(CONFIGS)
def test_every_config_is_a_base(path, tmp_path):
    name = path.relative_to(ROOT / 'configs')
    given = Config.fromfile(path).to_dict()  # whose model is built above
    assert config_of(f"_base_ = 'mlp_backbones::{name}'", tmp_path).to_dict() == given
    line = f"_base_ = __import__('mlp_backbones').config_path('{name}')"
    assert config_of(line, tmp_path).to_dict() == given


def test_a_base_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='no config gmlp.py; .* gmlp_maskrcnn_coco.py'):
        config_of("_base_ = __import__('mlp_backbones').config_path('gmlp.py')", tmp_path)


def test_bases_of_mmseg_are_found(tmp_path):
    cfg = config_of("_base_ = 'mmseg::_base_/models/upernet_r50.py'", tmp_path)
    assert cfg.model.type == 'EncoderDecoder'


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp('demo')
    with pytest.MonkeyPatch.context() as patch:
        assert not run_tool(
            patch, 'make_demo_data.py', root / 'data/demo', '--train', '4', '--val', '2'
        )
    return root / 'data/demo'


@pytest.mark.parametrize('codebase, name', [('mmdet', 'maskrcnn'), ('mmseg', 'upernet')])
def test_the_tools_of_mmdet_and_mmseg_train_on_our_bases(codebase, name, data_root):
    folder = data_root.parents[1]  # the user's, where data/demo is
    config = f"""
_base_ = __import__('mlp_backbones').config_path('demo/gmlp_{name}.py')
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=1)
val_cfg = val_dataloader = val_evaluator = None
train_dataloader = dict(sampler=dict(type='InfiniteSampler'))
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1))
"""
    (folder / f'{codebase}.py').write_text(config)
    train = Path(get_installed_path(codebase), '.mim/tools/train.py')
    command = [sys.executable, train, f'{codebase}.py', '--work-dir', f'{codebase}_run']
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert (folder / f'{codebase}_run/iter_1.pth').is_file()


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
