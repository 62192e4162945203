"""Every way in x every hostile file: refused, or loaded as data; nothing in it is run."""

import argparse
import functools
import io
import os
import pickle
import runpy
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader, load_checkpoint
from torch import nn

from mlp_backbones.checkpoints import (
    CheckpointError,
    knows_stand_ins,
    read_checkpoint,
    safe_loading,
)
from mlp_backbones.engine.training_start import check_start
from mlp_backbones.models import PlainGMLP

pytestmark = pytest.mark.skipif(
    not knows_stand_ins(), reason='torch before 2.6 reads no training state without running code'
)
ROOT = Path(__file__).resolve().parents[2]
ARCH = dict(embed_dims=8, num_layers=1, patch_size=4)


class Code:
    """Pickles as a call that leaves a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


class GetAttr:
    """Pickles as a call of getattr, which mmengine lets a checkpoint make."""

    def __reduce__(self):
        return getattr, (torch.Tensor, 'share_memory_')


def build(**kwargs):
    return PlainGMLP(ARCH, pretrain_img_size=16, **kwargs)


def training_state(code, **others):
    hub = MessageHub.get_instance('safety')
    hub.update_scalar('loss', np.float32(0.5))
    hub.update_info('best', np.float64(0.25))
    hub.update_info('cfg', code)
    return dict(
        meta=dict(epoch=1, iter=2, cfg=code, config=code),
        state_dict={f'backbone.{name}': value for name, value in build().state_dict().items()},
        message_hub=hub.state_dict(),
        optimizer=dict(state={0: dict(step=torch.tensor(2.0))}),
        **others,
    )


def with_weights(change):
    def make(path, trace):
        state = training_state('')
        state['state_dict'] = {name: change(w) for name, w in state['state_dict'].items()}
        torch.save(state, path)

    return make


def text_of(trace):
    return f'import os\nos.mkdir({str(trace)!r})\n'


def evil(**kwargs):
    def make(path, trace):
        torch.save(training_state('', evil=Code(trace)), path, **kwargs)

    return make


def npz(path, trace):
    with open(path, 'wb') as file:
        np.savez(file, weight=np.array([Code(trace)], dtype=object))


@functools.cache
def zeros():
    """A zip file of a megabyte with a gigabyte in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        with archive.open('archive/data.pkl', 'w', force_zip64=True) as content:
            for _ in range(1100):
                content.write(bytes(2**20))
    return file.getvalue()


def bomb(path, trace):
    path.write_bytes(zeros())


def cut_off(path, trace):
    torch.save(training_state(''), path)
    path.write_bytes(path.read_bytes()[:-300])


FILES = {
    'code in a pickle': (evil(), 'refused'),
    'code before torch 1.6': (evil(_use_new_zipfile_serialization=False), 'refused'),
    'a bare pickle': (
        lambda path, trace: path.write_bytes(pickle.dumps(training_state('', evil=Code(trace)))),
        'refused',
    ),
    'getattr': (
        lambda path, trace: torch.save(training_state('', state=[GetAttr()]), path),
        'data',  # it is nothing there
    ),
    'arrays of objects': (npz, 'refused'),
    'numpy objects': (
        lambda path, trace: torch.save(training_state('', x=np.array([None])), path),
        'refused',
    ),
    'code in the configs': (
        lambda path, trace: torch.save(training_state(text_of(trace)), path),
        'data',
    ),
    'a zip bomb': (bomb, 'refused'),
    'HTML': (lambda path, trace: path.write_text('<!DOCTYPE html>'), 'refused'),
    'cut off': (cut_off, 'refused'),
    'zero bytes': (lambda path, trace: path.write_bytes(b''), 'refused'),
    'integers': (with_weights(lambda w: w.to(torch.int8)), 'refused'),
    'NaN': (with_weights(lambda w: w * float('nan')), 'refused'),
}


def by_init_cfg_of_the_backbone(path):
    build(init_cfg=dict(type='Pretrained', checkpoint=path)).init_weights()


def by_init_cfg_of_a_model(path):
    class Model(BaseModule):
        def __init__(self, init_cfg):
            super().__init__(init_cfg)
            self.backbone = build()

    cfg = dict(init_cfg=dict(type='Pretrained', checkpoint=path))
    check_start(Config(dict(model=cfg)))
    with safe_loading():
        Model(**cfg).init_weights()


def by_mmengine(path):
    with safe_loading():
        load_checkpoint(nn.ModuleDict(dict(backbone=build())), path)


def by_load_from(path):
    check_start(Config(dict(load_from=path)))
    by_mmengine(path)


def by_resume(path):
    check_start(Config(dict(load_from=path, resume=True)))
    by_mmengine(path)


WAYS_IN = [
    by_init_cfg_of_the_backbone,
    by_init_cfg_of_a_model,
    by_load_from,
    by_resume,
]


@pytest.mark.parametrize('way_in', WAYS_IN, ids=lambda way: way.__name__)
@pytest.mark.parametrize('name', FILES)
def test_nothing_in_a_checkpoint_is_run(name, way_in, tmp_path):
    path, trace = tmp_path / 'evil.pth', tmp_path / 'it_ran'
    make, verdict = FILES[name]
    make(path, trace)
    allowed = torch.serialization.get_safe_globals()
    if verdict == 'refused':
        with pytest.raises(CheckpointError, match='evil.pth|torch.int8') as error:
            way_in(str(path))
        assert '\n' not in str(error.value)
    else:
        way_in(str(path))
    assert not trace.exists()
    assert set(torch.serialization.get_safe_globals()) == set(allowed)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    'name', [name for name, (_, verdict) in FILES.items() if verdict != 'data']
)
def test_tools_write_nothing_of_what_is_refused(name, tmp_path, monkeypatch):
    path, trace = tmp_path / 'evil.pth', tmp_path / 'it_ran'
    FILES[name][0](path, trace)
    out = str(tmp_path / 'out.pth')
    for tool, arguments in (
        (
            'convert_checkpoint.py',
            [str(path), out, '--backbone', 'PlainGMLP', '--arch', str(ARCH)],
        ),
        ('publish.py', [str(path), out]),
        ('test.py', ['configs/gmlp_maskrcnn_coco.py', str(path)]),
    ):
        if name == 'integers' and tool != 'convert_checkpoint.py':
            continue  # in another model than ours they may be weights
        monkeypatch.setenv('LOCAL_RANK', '0')
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, 'argv', [tool, *arguments])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
        assert end.value.code.startswith(f'{tool}: ') and '\n' not in end.value.code
        assert [p.name for p in tmp_path.iterdir()] == ['evil.pth']


def test_options_of_other_projects_are_plain_values(tmp_path, monkeypatch):
    class CfgNode(dict):  # as in yacs, which need not be installed
        __module__ = 'yacs.config'
        __qualname__ = 'CfgNode'

    module = types.ModuleType('yacs.config')
    module.CfgNode = CfgNode
    monkeypatch.setitem(sys.modules, 'yacs', types.ModuleType('yacs'))
    monkeypatch.setitem(sys.modules, 'yacs.config', module)
    node = CfgNode(a=CfgNode(b=1))
    node.__dict__['frozen'] = True
    content = dict(model=build().state_dict(), config=node, args=argparse.Namespace(lr=0.1))
    torch.save(content, tmp_path / 'x.pth')
    monkeypatch.undo()
    content = read_checkpoint(str(tmp_path / 'x.pth'))
    assert content['config'] == {'a': {'b': 1}} and content['args'] == {'lr': 0.1}


def test_a_training_state_is_read_as_plain_values(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    torch.save(training_state('model = dict()'), path)
    content = read_checkpoint(str(path))
    hub = content['message_hub']
    assert type(hub['log_scalars']['loss']) is HistoryBuffer
    assert hub['log_scalars']['loss'].statistics('mean') == 0.5
    assert hub['runtime_info']['best'] == 0.25
    torch.save(content, path)  # as a run that was resumed does
    assert read_checkpoint(str(path))['message_hub']['log_scalars']['loss'].current() == 0.5


@pytest.mark.parametrize('dtype', ['f4', '>f8', 'i8', 'u4', '?', 'c16', 'U5', 'S3'])
@pytest.mark.parametrize('order', 'CF')
def test_arrays_of_numbers_and_text_are_read(dtype, order, tmp_path):
    array = np.arange(12).reshape(3, 4).astype(dtype, order=order)
    torch.save(dict(w=torch.ones(1), array=array, scalar=array[1, 2]), tmp_path / 'x')
    content = read_checkpoint(str(tmp_path / 'x'))
    assert content['array'].dtype == array.dtype and (content['array'] == array).all()
    assert content['scalar'] == array[1, 2]


def test_what_lies_in_several_places_is_read_once(tmp_path):
    history = HistoryBuffer([1.0], [1])
    shared = [history]
    for _ in range(200):  # 2 ** 200 places
        shared = [shared, shared]
    loop = {}
    loop['itself'] = loop
    torch.save(dict(w=torch.ones(1), a=history, b=history, c=shared, d=loop), tmp_path / 'x')
    content = read_checkpoint(str(tmp_path / 'x'))
    assert type(content['a']) is HistoryBuffer and content['a'] is content['b']
    assert content['c'][0] is content['c'][1] and content['d']['itself'] is content['d']


def test_the_versions_of_modules_come_with_the_weights(tmp_path):
    state = nn.Sequential(nn.BatchNorm2d(2)).state_dict()
    torch.save(dict(state_dict=state), tmp_path / 'x')
    with safe_loading():
        content = CheckpointLoader.load_checkpoint(str(tmp_path / 'x'))
    assert content['state_dict']._metadata == state._metadata


def test_mmengine_reads_as_before_afterwards(tmp_path):
    torch.save(dict(w=torch.ones(1), meta=dict(cfg='a = 1')), tmp_path / 'x')
    before = CheckpointLoader.load_checkpoint(str(tmp_path / 'x'))
    with safe_loading():
        assert 'cfg' not in CheckpointLoader.load_checkpoint(str(tmp_path / 'x'))['meta']
    assert before == CheckpointLoader.load_checkpoint(str(tmp_path / 'x'))
