"""The loss on validation images beside the metrics."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from in_process import run_tool
from mmengine.runner import Runner

from mlp_backbones.engine import launch
from mlp_backbones.engine.val_loss import ValLossHook, loss_dataset

ROOT = Path(__file__).resolve().parents[2]
HOOK = 'mlp_backbones.ValLossHook'


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp('demo') / 'data'
    with pytest.MonkeyPatch.context() as patch:
        assert not run_tool(patch, 'make_demo_data.py', root, '--train', '4', '--val', '3')
    return root


def config(name, data_root, folder, **hook):
    options = dict(data_root=str(data_root), work_dir=str(folder), train_cfg=dict(max_epochs=1))
    cfg = launch.load_config(ROOT / f'configs/demo/gmlp_{name}.py', options)
    cfg.train_cfg.val_interval = 1
    cfg.val_dataloader.batch_size = 1
    cfg.default_hooks.checkpoint.save_best = 'val_loss'
    cfg.custom_hooks = [dict(type=HOOK, **hook)]
    return cfg


def resized(cfg, scale):
    """Images twice as large, as in most evaluations; annotations come after that."""
    steps = [step for step in cfg.val_dataloader.dataset.pipeline if step.type != 'Resize']
    steps.insert(1, dict(type='Resize', scale=scale, keep_ratio=True))
    cfg.val_dataloader.dataset.pipeline = steps


@pytest.mark.parametrize('name', ['maskrcnn', 'upernet'])
def test_it_is_the_training_loss_of_the_validation_images(name, data_root, tmp_path):
    cfg = config(name, data_root, tmp_path)
    resized(cfg, (192, 192))
    runner = Runner.from_cfg(deepcopy(cfg))
    runner.train()
    (log,) = tmp_path.glob('*/vis_data/scalars.json')
    last = json.loads(log.read_text().splitlines()[-1])
    assert list(tmp_path.glob('best_val_loss_epoch_1.pth'))

    train = deepcopy(cfg.train_dataloader)  # as training has them, of the same size, not flipped
    train.update(batch_size=1, dataset=deepcopy(cfg.val_dataloader.dataset))
    steps = [step for step in cfg.train_dataloader.dataset.pipeline if step.type != 'RandomFlip']
    steps.insert(2, dict(type='Resize', scale=(192, 192), keep_ratio=True))
    train.dataset.update(pipeline=steps, test_mode=False)
    train.sampler.shuffle = False
    model, losses = runner.model.eval(), []
    torch.manual_seed(0)
    with torch.no_grad():
        for batch in runner.build_dataloader(train):
            data = model.data_preprocessor(batch, True)
            losses.append(model.parse_losses(model(**data, mode='loss'))[0])
    assert len(losses) == 3
    assert last['val_loss'] == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    parts = [value for key, value in last.items() if key.startswith('val_') and key != 'val_loss']
    assert sum(parts) == pytest.approx(last['val_loss'], rel=1e-5)


def test_training_is_the_same_with_and_without_it(data_root, tmp_path):
    weights = []
    for hooks in ([], [dict(type=HOOK, max_images=2)]):
        cfg = config('maskrcnn', data_root, tmp_path / str(len(weights)))
        cfg.train_cfg.max_epochs = 2
        cfg.custom_hooks = hooks
        cfg.default_hooks.checkpoint.save_best = None
        runner = Runner.from_cfg(cfg)
        runner.train()
        weights.append(torch.cat([x.flatten() for x in runner.model.parameters()]))
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_a_loss_that_cannot_be_computed_ends_the_run_before_training(data_root, tmp_path):
    cfg = config('maskrcnn', data_root, tmp_path)
    for step in cfg.train_dataloader.dataset.pipeline:
        if step.type == 'LoadAnnotations':
            step.with_bbox = step.with_mask = False
    runner = Runner.from_cfg(cfg)
    with pytest.raises(RuntimeError, match='ValLossHook: .*Error in the loss of a validation im'):
        runner.train()
    assert runner.iter == 0


def test_data_sets_in_wrappers_are_changed_alike():
    load, boxes = dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)
    resize = dict(type='Resize', scale=(64, 64))
    inner = dict(type='CocoDataset', pipeline=[load, boxes, resize], filter_cfg=dict(min_size=1))
    train = dict(type='MultiImageMixDataset', dataset=inner, pipeline=[dict(type='Mosaic')])
    val = dict(type='CocoDataset', pipeline=[load, resize, dict(type='LoadAnnotations')])
    both = loss_dataset(dict(type='ConcatDataset', datasets=[val, dict(val)]), dict(dataset=train))
    for part in both['datasets']:
        assert part['pipeline'] == [load, boxes, resize]
        assert part['filter_cfg'] == dict(min_size=1) and not part['test_mode']


def test_bad_arguments():
    with pytest.raises(ValueError, match='max_images=0 must be 1 or more'):
        ValLossHook(max_images=0)
