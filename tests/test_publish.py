"""tools/publish.py: what a training leaves becomes what one hands on."""

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub

from mlp_backbones.checkpoints import SUFFIXES, read_checkpoint

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'tools'))
import publish

WEIGHTS = {'backbone.w': torch.arange(6.0).view(2, 3).t(), 'head.n': torch.tensor(3)}
META = dict(classes=('cat', 'dog'), palette=np.zeros((2, 3), int))


def training_state(cfg="model = dict(type='MaskRCNN')\n", **others):
    hub = MessageHub.get_instance('publish')
    hub.update_scalar('loss', 0.5)
    hub.update_info('cfg', cfg)
    meta = dict(epoch=1, iter=2, cfg=cfg, dataset_meta=META, time='now')
    state = dict(meta=meta, state_dict=WEIGHTS, message_hub=hub.state_dict(), optimizer={})
    return {**state, **others}


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_weights_classes_and_config_are_handed_on(suffix, tmp_path):
    torch.save(training_state(), tmp_path / 'epoch_1.pth')
    report = publish.publish(str(tmp_path / 'epoch_1.pth'), str(tmp_path / f'gmlp{suffix}'))
    (path,) = tmp_path.glob(f'gmlp-*{suffix}')
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f'gmlp-{digest[:8]}{suffix}' and digest in report
    assert len(list(tmp_path.iterdir())) == 2
    content = read_checkpoint(str(path))
    assert content.keys() == {'meta', 'state_dict'}
    for name, value in WEIGHTS.items():
        assert torch.equal(content['state_dict'][name], value)
    meta = content['meta']
    assert meta['cfg'] == "model = dict(type='MaskRCNN')\n" and meta['epoch'] == 1
    assert list(meta['dataset_meta']['classes']) == ['cat', 'dog'] and 'time' not in meta
    assert meta['dataset_meta']['palette'] == META['palette'].tolist()
    if suffix == '.pth':  # by anybody, with torch alone
        assert torch.load(path, weights_only=True)['meta'] == meta


@pytest.mark.parametrize(
    'state, out, message',
    [
        (training_state(), 'x.bin', 'x.bin must end in .pth or .safetensors'),
        (training_state(cfg='import os'), 'x.pth', 'line 1 is more than data: import os'),
        (training_state(state_dict=dict(w=torch.tensor([float('nan')]))), 'x.pth', 'hold NaN'),
        ([1], 'x.pth', 'instead of weights it holds'),
    ],
)
def test_what_cannot_be_handed_on_is_named(state, out, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(state, 'epoch_1.pth')
    monkeypatch.setattr(sys, 'argv', ['publish.py', 'epoch_1.pth', out])
    with pytest.raises(SystemExit, match=message):
        publish.main()
    assert [p.name for p in tmp_path.iterdir()] == ['epoch_1.pth']
