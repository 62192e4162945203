"""Pre-training by tools/train.py, and its checkpoints in backbones of detectors."""

import json
import os
import runpy
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import OPTIM_WRAPPERS
from shipped import CLASSIFIERS, ROOT
from torch import nn

from mlp_backbones.checkpoints import load_pretrained
from mlp_backbones.engine import classification
from mlp_backbones.models import GMLP

CONFIGS = [path.relative_to(ROOT) for path in CLASSIFIERS]
# Builds the model of every config, then trains by those that are named: one start of mmpretrain.
SCRIPT = """
import json, runpy, sys
sys.path.insert(0, 'tests')
import metafiles
import torch
from mmengine.registry import MODELS, init_default_scope
from mlp_backbones.engine import launch

configs, runs = map(json.loads, sys.argv[1:])
init_default_scope('mmpretrain')
for config in configs:
    cfg = launch.load_config(config)
    with torch.device('cpu' if 'swin' in config else 'meta'):  # a Swin needs numbers
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)).eval()
        model(torch.zeros(1, 3, 64, 64))
    print(config, sum(p.numel() for p in model.backbone.parameters()) / 1e6)
for run in runs:
    sys.argv = run
    runpy.run_path(run[0], run_name='__main__')
"""


def build_and_train(root):
    """Two trainings of an epoch in a folder; what was printed."""
    rng = np.random.default_rng(0)
    for i in range(4):
        cv2.imwrite(str(root / f'{i}.jpg'), rng.integers(0, 256, (64, 64, 3), np.uint8))
    for name in ('train', 'val', 'meta/train', 'meta/val'):
        (root / name).parent.mkdir(exist_ok=True)
        (root / f'{name}.txt').write_text('\n'.join(f'{i}.jpg {i}' for i in range(4)))
    options = [f'data_root={root}', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1']
    for loop in ('train', 'val'):
        options += [
            f'{loop}_dataloader.{key}'
            for key in ('batch_size=2', 'num_workers=0', 'persistent_workers=False')
        ]
    flat = [f'{loop}_dataloader.dataset.data_prefix=.' for loop in ('train', 'val')]
    bfloat16 = ['optim_wrapper.type=mlp_backbones.BFloat16OptimWrapper']
    runs = [
        ['tools/train.py', f'configs/pretrain/{name}.py', '--work-dir', f'{root}/{name}']
        + ['--cfg-options', *options, *more]
        for name, more in (
            ('gmlp_nano_tiny_imagenet', bfloat16),
            ('s2mlp_tiny_imagenet', ['train_dataloader.dataset.split=train', *flat]),
        )
    ]
    command = [sys.executable, '-c', SCRIPT, json.dumps([*map(str, CONFIGS)]), json.dumps(runs)]
    environment = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def check_sizes(text):
    """Every config builds a classifier of the size of its preset."""
    sizes = dict(line.split() for line in text.splitlines() if line.startswith('configs/pretrain'))
    assert len(sizes) == len(CONFIGS) == 22
    expected = dict(nano=(1.5, 2.6), tiny=(27, 29), small=(48, 50), base=(86, 88))
    for path, millions in sizes.items():
        preset = next(name for name in expected if f'_{name}_' in path)
        low, high = expected[preset]
        assert low < float(millions) < high, path


def losses(folder):
    rows = [json.loads(line) for line in next(folder.glob('*/vis_data/scalars.json')).open()]
    return [row for row in rows if 'accuracy/top1' in row or 'loss' in row]


@pytest.mark.slow
def test_the_recipes_and_their_checkpoint_in_a_backbone(tmp_path):
    check_sizes(build_and_train(tmp_path))
    for name in ('gmlp_nano_tiny_imagenet', 's2mlp_tiny_imagenet'):
        assert 0 <= losses(tmp_path / name)[-1]['accuracy/top1'] <= 100
        assert (tmp_path / name / 'epoch_1.pth').is_file()

    file = tmp_path / 'gmlp_nano_tiny_imagenet/epoch_1.pth'
    model = GMLP('nano', init_cfg=dict(type='Pretrained', checkpoint=str(file)))
    model.init_weights()
    given = torch.load(file, weights_only=False)['state_dict']
    own = model.state_dict()
    for name in ('stages.1.0.fc1.weight', 'norms.3.bias'):
        assert torch.equal(own[name], given[f'backbone.{name}'])
    report = load_pretrained(model, str(file))
    assert report.fresh == [f'norms.{i}.{name}' for i in range(3) for name in ('weight', 'bias')]
    assert all(own[name].eq(name.endswith('weight')).all() for name in report.fresh)
    assert {*report.resized.values()} == {(8, 14), (4, 7)}  # from images of 128 to 224 pixels


def test_what_is_missing_is_said_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(classification, 'find_spec', lambda name: None)
    monkeypatch.setattr(sys, 'path', [*sys.path])  # on which torchvision is not left unmended
    with pytest.raises(ImportError, match='needs mmpretrain and torchvision: pip install onedl'):
        classification.require_mmpretrain()


def test_bfloat16_is_of_the_forward_pass_alone():
    model = nn.Linear(4, 4)
    wrapper = OPTIM_WRAPPERS.build(
        dict(
            type='mlp_backbones.BFloat16OptimWrapper',
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        )
    )
    before = model.weight.detach().clone()
    with wrapper.optim_context(model):
        y = model(torch.randn(2, 4))
    assert y.dtype == torch.bfloat16
    wrapper.update_params(y.float().square().mean())
    assert model.weight.dtype == torch.float32 and not torch.equal(model.weight, before)


def make_tiny_imagenet(root, classes=200, train=500, val=50):
    """Its folders and its lists, with empty files."""
    names = [f'n{i:08}' for i in range(classes)]
    root.mkdir()
    (root / 'wnids.txt').write_text('\n'.join(reversed(names)))
    for name in names:
        (root / 'train' / name / 'images').mkdir(parents=True)
        for i in range(train):
            (root / 'train' / name / 'images' / f'{name}_{i}.JPEG').touch()
    (root / 'val/images').mkdir(parents=True)
    lines = [(f'val_{i}.JPEG', names[i % classes]) for i in range(val * classes)]
    for file, _ in lines:
        (root / 'val/images' / file).touch()
    text = ''.join(f'{file}\t{name}\t0\t1\t2\t3\n' for file, name in lines)
    (root / 'val/val_annotations.txt').write_text(text)


def test_tiny_imagenet_is_listed(tmp_path, monkeypatch):
    tool = runpy.run_path(str(ROOT / 'tools/prepare_tiny_imagenet.py'))
    for name, value in dict(CLASSES=3, TRAIN=2, VAL=1).items():
        monkeypatch.setitem(tool['lists'].__globals__, name, value)
    root = tmp_path / 'tiny'
    make_tiny_imagenet(root, classes=5, train=2, val=1)
    lists = tool['lists'](root)
    # of five classes the first three of wnids.txt, in the order of their names
    assert lists['train'][0] == 'train/n00000002/images/n00000002_0.JPEG 0'
    assert len(lists['train']) == 6
    assert lists['val'] == [f'val/images/val_{i}.JPEG {i - 2}' for i in (2, 3, 4)]
    (root / 'val/images/val_3.JPEG').unlink()
    with pytest.raises(
        ValueError, match='6 images for training and 2 for validation, not 6 and 3'
    ):
        tool['lists'](root)


def test_the_recipes_reach_their_end():
    for path in CONFIGS:
        cfg = Config.fromfile(ROOT / path)
        assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_epochs
