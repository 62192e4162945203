"""Weights by name: where they are found, and that they are the right ones."""

import contextlib
import functools
import http.server
import threading

import pytest
import torch
import yaml

from mlp_backbones.checkpoints import CheckpointError, own_weights, read_weights, write_weights
from mlp_backbones.models import GMLP

ADDRESS = 'mlp_backbones://tiny'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The weights of an installation, with those of one model."""
    write_weights(tmp_path / 'tiny.safetensors', {'x': torch.ones(2)}, {})
    digest = own_weights.digest(tmp_path / 'tiny.safetensors')
    entry = {'Name': 'tiny', 'Weights': 'weights/tiny.safetensors'}
    models = [entry | {'Metadata': {'SHA-256': digest}}]
    (tmp_path / 'metafile.yml').write_text(yaml.safe_dump(dict(Models=models)))
    monkeypatch.setattr(own_weights, 'FOLDER', tmp_path)
    monkeypatch.delenv(own_weights.VARIABLE, raising=False)
    own_weights.models.cache_clear()
    yield tmp_path
    own_weights.models.cache_clear()


def test_they_are_found_in_a_checkout(folder):
    assert read_weights(ADDRESS)['x'].tolist() == [1, 1]


def test_a_name_that_is_not_there_is_named_with_those_that_are(folder):
    with pytest.raises(FileNotFoundError, match='tinny does not .*; did you mean tiny.*are tiny'):
        read_weights('mlp_backbones://tinny')
    model = GMLP('nano', init_cfg=dict(type='Pretrained', checkpoint='mlp_backbones://x'))
    with pytest.raises(FileNotFoundError, match='GMLP: init_cfg names .*: mlp_backbones://x does'):
        model.init_weights()


def test_without_their_list_an_installation_is_asked_for(folder):
    (folder / 'metafile.yml').unlink()
    with pytest.raises(FileNotFoundError, match='has no metafile.yml, .* with an installation'):
        read_weights(ADDRESS)


def test_other_content_than_the_list_says_is_refused(folder):
    write_weights(folder / 'tiny.safetensors', {'x': torch.zeros(2)}, {})
    with pytest.raises(CheckpointError, match='the SHA-256 of .*tiny.safetensors is not '):
        read_weights(ADDRESS)


@contextlib.contextmanager
def served(folder):
    """An address of the folder."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def test_an_installed_package_takes_them_from_elsewhere(folder, tmp_path_factory, monkeypatch):
    away = tmp_path_factory.mktemp('away')
    (folder / 'tiny.safetensors').rename(away / 'tiny.safetensors')
    with pytest.raises(FileNotFoundError, match='Set MLP_BACKBONES_WEIGHTS to the address'):
        read_weights(ADDRESS)
    monkeypatch.setenv(own_weights.VARIABLE, str(away))
    assert read_weights(ADDRESS)['x'].tolist() == [1, 1]
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(folder / 'hub'))
    with served(away) as address:
        monkeypatch.setenv(own_weights.VARIABLE, address)
        assert read_weights(ADDRESS)['x'].tolist() == [1, 1]
