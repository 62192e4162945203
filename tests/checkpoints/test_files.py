"""Checkpoint files: told by their content, and nothing in them is run."""

import argparse
import functools
import http.server
import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.logging import MessageHub
from mmengine.runner import save_checkpoint
from safetensors.torch import save_file

from mlp_backbones.checkpoints import (
    CheckpointError,
    files,
    knows_stand_ins,
    read_weights,
    write_weights,
)

needs_stand_ins = pytest.mark.skipif(
    not knows_stand_ins(), reason='torch before 2.6 reads no training state without running code'
)

WEIGHTS = {'a.weight': torch.arange(6.0).view(2, 3), 'a.bias': torch.ones(3, dtype=torch.half)}


class Code:
    """Pickles as a call that leaves a file: what a malicious checkpoint would do."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def save_npz(weights, path):
    with open(path, 'wb') as file:
        np.savez(file, **{key: value.numpy() for key, value in weights.items()})


FORMATS = {
    'torch': torch.save,
    'torch before 1.6': functools.partial(torch.save, _use_new_zipfile_serialization=False),
    'safetensors': save_file,
    'npz': save_npz,
}
every_format = pytest.mark.parametrize('save', FORMATS.values(), ids=FORMATS)


def assert_same(weights, expected=WEIGHTS):
    assert weights.keys() == expected.keys()
    for key, value in expected.items():
        assert weights[key].dtype == value.dtype and torch.equal(weights[key], value)


@every_format
def test_the_content_counts_and_not_the_name(save, tmp_path):
    path = tmp_path / 'some.file'
    save(WEIGHTS, path)
    assert_same(read_weights(str(path)))


@every_format
@given(cut=st.floats(0, 0.99))
def test_a_truncated_file_is_refused(save, cut, tmp_path_factory):
    path = tmp_path_factory.mktemp('cut') / 'cut.pth'
    save(WEIGHTS, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(ValueError, match='cut.pth cannot be read as a checkpoint: it '):
        read_weights(str(path))


@needs_stand_ins
@pytest.mark.parametrize('wrap', ['state_dict', 'model', 'module'])
def test_weights_are_found_in_a_training_state(wrap, tmp_path):
    torch.save({wrap: WEIGHTS, 'epoch': 3, 'args': argparse.Namespace(lr=0.1)}, tmp_path / 'x')
    assert_same(read_weights(str(tmp_path / 'x')))


@needs_stand_ins
def test_checkpoints_of_mmengine_are_read(tmp_path):
    hub = MessageHub.get_instance('of a run')
    hub.update_scalar('loss', 0.5)
    hub.update_scalar('lr', np.float64(0.1))
    hub.update_info('seed', np.random.RandomState(0).get_state())
    content = dict(meta=dict(epoch=1), state_dict=WEIGHTS, message_hub=hub.state_dict())
    save_checkpoint(content, str(tmp_path / 'epoch_1.pth'))
    allowed = set(torch.serialization.get_safe_globals())
    assert_same(read_weights(str(tmp_path / 'epoch_1.pth')))
    assert set(torch.serialization.get_safe_globals()) == allowed


@needs_stand_ins
@pytest.mark.parametrize('kind', ['torch', 'torch before 1.6', 'pickle', 'npz'])
def test_code_in_a_checkpoint_is_refused_and_not_run(kind, tmp_path):
    path, trace = tmp_path / 'evil.pth', tmp_path / 'it_ran'
    content = dict(state_dict=WEIGHTS, extra=Code(trace))
    with open(path, 'wb') as file:
        if kind == 'pickle':
            pickle.dump(content, file)
        elif kind == 'npz':
            np.savez(file, weight=np.array([Code(trace)], dtype=object))
        else:
            FORMATS[kind](content, file)
    # what other code trusts is not trusted here
    with torch.serialization.safe_globals([os.mkdir, getattr]):
        with pytest.raises(ValueError, match='evil.pth cannot be read .* nothing in it was run'):
            read_weights(str(path))
    assert not trace.exists()


@pytest.mark.parametrize(
    'content, message',
    [
        (b'', 'it is empty'),
        (b'no checkpoint', 'it is not a file of torch.save, safetensors or numpy'),
        (b'PK\x03\x04 and more', 'it was cut off'),
        (b'\x80\x04N.', 'cannot be read as a checkpoint'),
    ],
)
def test_what_is_no_checkpoint(content, message, tmp_path):
    (tmp_path / 'x.pth').write_bytes(content)
    with pytest.raises(ValueError, match=f'x.pth .*{message}'):
        read_weights(str(tmp_path / 'x.pth'))


def test_other_things_than_weights(tmp_path):
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match='list.pth is not .* instead of weights it holds a list'):
        read_weights(str(tmp_path / 'list.pth'))
    torch.save(dict(epoch=1, note='x'), tmp_path / 'dict.pth')
    with pytest.raises(ValueError, match=r"weights it holds a dict with \['epoch', 'note'\]"):
        read_weights(str(tmp_path / 'dict.pth'))
    with pytest.raises(ValueError, match='it is a folder'):
        read_weights(str(tmp_path))
    with pytest.raises(FileNotFoundError, match='nowhere.pth does not exist'):
        read_weights('nowhere.pth')


@pytest.fixture
def server(tmp_path):
    """Serves a folder on this machine, and counts the answers."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        answers = []

        def log_message(self, format, *args):
            self.answers.append(args)

        def send_header(self, key, value):
            if 'cut' in self.path and key == 'Content-Length':
                value = '1000'
            super().send_header(key, value)

    (tmp_path / 'served').mkdir()
    handler = functools.partial(Handler, directory=str(tmp_path / 'served'))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path / 'served', f'http://127.0.0.1:{server.server_port}', Handler.answers
        server.shutdown()


def test_a_web_page_in_the_place_of_a_file_is_named(server, tmp_path):
    """What Google Drive answers instead of a large file, saved under its name or sent."""
    folder, url, _ = server
    for start in ('<!DOCTYPE html>', '\n<HTML>'):
        (tmp_path / 'model.pth').write_text(f'{start}<head>Virus scan warning</head>')
        with pytest.raises(CheckpointError, match='model.pth is a web page .*download .* by hand'):
            read_weights(str(tmp_path / 'model.pth'))
    (folder / 'view.html').write_text('<html></html>')
    with pytest.raises(CheckpointError, match=f'{url}/view.html is a web page .* by hand'):
        read_weights(f'{url}/view.html')
    assert not list(Path(torch.hub.get_dir(), 'checkpoints').glob('view*'))


def test_addresses(server, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    folder, address, answers = server
    others = {'b': torch.zeros(2)}
    for name, weights in (('one', WEIGHTS), ('two', others)):
        (folder / name).mkdir()
        save_file(weights, folder / name / 'model.safetensors')
    for _ in range(2):  # the second time from the file of the first
        assert_same(read_weights(f'{address}/one/model.safetensors'))
    assert len(answers) == 1
    assert_same(read_weights(f'{address}/two/model.safetensors'), others)

    (folder / 'cut.pth').write_bytes(b'PK')
    with pytest.raises(ConnectionError, match='cut.pth cannot be fetched: cut off after'):
        read_weights(f'{address}/cut.pth')
    with pytest.raises(FileNotFoundError, match=r'gone.pth does not exist \(404'):
        read_weights(f'{address}/gone.pth')
    with pytest.raises(ConnectionError, match='x.pth cannot be fetched: .*give its path'):
        read_weights('http://127.0.0.1:1/x.pth')
    with pytest.raises(ConnectionError, match='cannot be fetched: .*give its path'):
        read_weights('gs://mixer_models/imagenet1k/Mixer-B_16.npz')
    kept = (tmp_path / 'hub/checkpoints').iterdir()
    assert [path.suffix for path in kept] == ['.safetensors', '.safetensors']


@pytest.mark.parametrize('name', ['x.pth', 'x.safetensors'])
def test_files_are_written_whole_or_not_at_all(name, tmp_path, monkeypatch):
    path = tmp_path / name
    write_weights(path, WEIGHTS, dict(source='a test'))
    assert_same(read_weights(str(path)))
    before = path.read_bytes()

    def full(*args):
        raise OSError('No space left on device')

    monkeypatch.setattr(files.os, 'fsync', full)
    with pytest.raises(OSError, match='No space left'):
        write_weights(path, {'other': torch.zeros(1)}, {})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [name]
