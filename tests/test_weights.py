"""The weights that are shipped: what they are, and that they do what is said of them."""

import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mlp_backbones.checkpoints import own_weights, read_checkpoint, safe_loading

ROOT = Path(__file__).resolve().parents[1]
STUDY = runpy.run_path(str(ROOT / 'tools/resolution_study.py'))
ROWS = {f'{name}_nano_tiny_imagenet': row for row, name in STUDY['DEFAULTS'].items()}
ENTRIES = own_weights.models()
IMAGES = sorted((ROOT / 'tests/images').glob('*.JPEG'))  # <label>_<name>


def test_there_are_no_others_and_they_are_small():
    files = sorted((ROOT / 'weights').glob('*.safetensors'))
    assert [f'weights/{file.name}' for file in files] == [e['Weights'] for e in ENTRIES.values()]
    sizes = [file.stat().st_size for file in files]
    assert max(sizes) < 5e6 and sum(sizes) < 40e6


@pytest.fixture(scope='module')
def images():
    pixels = np.stack([cv2.imread(str(path))[..., ::-1] for path in IMAGES])
    return STUDY['to_batch'](pixels), torch.tensor([int(path.name[:3]) for path in IMAGES])


@pytest.mark.parametrize('name', ENTRIES)
def test_each_is_the_model_that_its_entry_describes(name, images):
    entry = ENTRIES[name]
    content = read_checkpoint(f'{own_weights.SCHEME}{name}')  # which compares the SHA-256
    weights, meta = content['state_dict'], content['meta']
    assert {x.dtype for x in weights.values()} <= {torch.float16, torch.int64}
    assert 'research' in meta['licence']
    assert meta['results'] == entry['Results'][0]['Metrics']
    for key, value in entry['Metadata'].items():
        assert key == 'SHA-256' or meta[key] == value
    assert (ROOT / entry['Config']).is_file()

    init_default_scope('mmseg')
    backbone = MODELS.build(STUDY['backbone_of'](ROWS[name], pretrained=True))
    with safe_loading():
        backbone.init_weights()
    backbone.eval()
    parameters = sum(p.numel() for p in backbone.parameters())
    assert 0 <= parameters - entry['Metadata']['Parameters'] < 500  # norms of outputs
    x, labels = images
    with torch.no_grad():
        features = backbone(x)[-1].mean((2, 3))
        logits = features @ weights['head.fc.weight'].float().T + weights['head.fc.bias'].float()
    assert (logits.argmax(1) == labels).sum() == entry['Metadata']['Hits of tests/images']


def test_the_document_gives_their_accuracy():
    lines = (ROOT / 'docs/weights.md').read_text().splitlines()
    for name, entry in ENTRIES.items():
        (line,) = [line for line in lines if line.startswith(f'| `{name}`')]
        top1, top5 = entry['Results'][0]['Metrics'].values()
        assert f'{top1:.1f}**, {top5:.1f}' in line or f'{top1:.1f}, {top5:.1f}' in line


def test_the_command_of_an_entry_has_the_settings_that_were_changed(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    command = runpy.run_path(str(ROOT / 'tools/release_weights.py'))['command']
    path = 'configs/pretrain/gmlp_nano_tiny_imagenet.py'
    used = Config.fromfile(path)
    used.work_dir = '/tmp/gmlp'
    used.train_dataloader.dataset.data_root = '/data'
    assert command(path, used) == f'python tools/train.py {path}'
    used.optim_wrapper.type = 'mlp_backbones.BFloat16OptimWrapper'
    used.param_scheduler[1].end = 12
    assert command(path, used) == (
        f'python tools/train.py {path} --cfg-options '
        'optim_wrapper.type=mlp_backbones.BFloat16OptimWrapper param_scheduler.1.end=12'
    )
