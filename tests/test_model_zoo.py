"""Published models: their configs, their entries in the metafiles, and the document of both."""

import functools
import http.server
import re
import runpy
import threading

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope
from shipped import PUBLISHED, ROOT, name

from mlp_backbones.analysis.complexity import count_params
from mlp_backbones.apis import inferencer, init_model, model_zoo

ENTRIES = model_zoo.models()

# Millions of parameters of the whole models: tables 2 and 3 of PoolFormer's paper, and ConvMLP's
# README.
PARAMETERS = {
    'convmlp_s_maskrcnn': 28.7,
    'convmlp_m_maskrcnn': 37.1,
    'convmlp_l_maskrcnn': 62.2,
    'convmlp_s_retinanet': 18.7,
    'convmlp_m_retinanet': 27.1,
    'convmlp_l_retinanet': 52.9,
    'convmlp_s_semfpn': 12.8,
    'convmlp_m_semfpn': 21.1,
    'convmlp_l_semfpn': 46.3,
    'poolformer_s12_maskrcnn': 31.6,
    'poolformer_s24_maskrcnn': 41.0,
    'poolformer_s36_maskrcnn': 50.5,
    'poolformer_s12_retinanet': 21.7,
    'poolformer_s24_retinanet': 31.1,
    'poolformer_s36_retinanet': 40.6,
    'poolformer_s12_semfpn': 15.7,
}


def build(path):
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


@pytest.mark.parametrize('path', PUBLISHED, ids=name)
def test_a_published_config_says_where_its_checkpoint_is(path):
    text = path.read_text()
    header = re.sub(r'\n# ?', '', text[: text.index('_base_')])
    entries = [m for m in ENTRIES.values() if m.get('Config', '').endswith(f'/{path.name}')]
    assert entries and any(entry['Name'] == path.stem for entry in entries)
    for entry in entries:
        assert entry['Weights'] in header
        for result in entry['Results']:
            for metric, value in result['Metrics'].items():
                assert f'{value} {metric}' in header
    # from the weights of ImageNet, which have an entry, too
    arch = Config.fromfile(path).model.backbone.arch
    start = Config.fromfile(path).model.backbone.init_cfg.checkpoint
    assert ENTRIES[f'{path.parent.name}_{arch}_imagenet']['Weights'] == start


@pytest.mark.parametrize('model', PARAMETERS)
def test_the_whole_models_have_the_published_number_of_parameters(model):
    (path,) = [path for path in PUBLISHED if path.stem.startswith(model)]
    with torch.device('meta'):
        millions = count_params(build(path)) / 1e6
    assert millions == pytest.approx(PARAMETERS[model], abs=0.06)


@pytest.mark.slow
def test_the_document_is_what_its_command_writes(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    tool = runpy.run_path(str(ROOT / 'tools/model_zoo.py'))
    text = tool['DOCUMENT'].read_text()
    assert tool['document'](text) == text


def test_every_metafile_is_listed_and_no_name_is_given_twice():
    index = (ROOT / 'model-index.yml').read_text()
    metafiles = [*ROOT.glob('configs/*/metafile.yml'), ROOT / 'weights/metafile.yml']
    names = []
    for metafile in metafiles:
        assert f'- {metafile.relative_to(ROOT)}\n' in index
        names += re.findall('^- Name: (.*)', metafile.read_text(), re.M)
    collections = {m['In Collection'] for m in ENTRIES.values()}
    assert sorted(names) == sorted([*ENTRIES, *collections])


@pytest.fixture
def server(tmp_path):
    """Serves a folder on this machine."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def test_a_model_is_found_by_its_name(server, tmp_path, monkeypatch):
    """And what its entry says is downloaded: here a file with random weights."""
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.setitem(ENTRIES['convmlp_s_semfpn_40k_ade20k'], 'Weights', f'{server}/x.pth')
    path, address = model_zoo.find_model('convmlp_s_semfpn_40k_ade20k')
    weights = build(path).state_dict()
    from mmseg.utils import ade_classes

    meta = dict(CLASSES=ade_classes(), PALETTE=[[0, 0, 0]] * 150)  # as mmseg 0 writes them
    torch.save(dict(meta=meta, state_dict=weights), tmp_path / 'x.pth')
    infer = inferencer('convmlp_s_semfpn_40k_ade20k', device='cpu')
    torch.testing.assert_close(dict(infer.model.state_dict()), dict(weights))
    image = torch.zeros(64, 96, 3).byte().numpy()
    result = infer(image, return_datasamples=True)
    assert result.pred_sem_seg.data.shape == (1, 64, 96)


def test_the_hub_of_mmengine_finds_them():
    name = 'convmlp_s_maskrcnn_1x_coco'
    cfg = get_config(f'mlp_backbones::convmlp/{name}.py', pretrained=True)
    assert cfg.model_path == ENTRIES[name]['Weights']


@pytest.mark.parametrize(
    'text, message',
    [
        (
            'convmlp_s_maskrcnn_2x_coco',
            'neither a file nor .*mean convmlp_s_maskrcnn_1x_coco',
        ),
        ('convmlp_s_imagenet', r"weights of a classifier.*init_cfg.*convmlp_s_imagenet\.pth'"),
        ('gmlp_nano_tiny_imagenet', 'weights of a classifier'),
    ],
)
def test_other_names_are_named(text, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        init_model(text)
