"""Token-mixing weights as images are the weights of the layer as it is applied."""

import runpy
import sys

import cv2
import numpy as np
import pytest
import torch
from small_models import CONFIGS, ROOT, save_small

from mlp_backbones.analysis.mixing import filters, mixing_layers, native_region
from mlp_backbones.models import GMLP, S2MLP, MLPMixer, PoolFormer, ResMLP, ShiftGMLP
from mlp_backbones.models.layers import make_region
from mlp_backbones.models.layers.resampling import build_resampling_matrix

RASTER = [((i + 0.5) / 3, (j + 0.5) / 3) for i in range(3) for j in range(3)]


def dense(n, g):
    """D and U of a map of n[0] x n[1], as matrices."""
    down, up = ([build_resampling_matrix(*x) for x in pairs]
                for pairs in ([(k, g) for k in n], [(g, k) for k in n]))  # fmt: skip
    return torch.kron(*down), torch.kron(*up)


def at(place, size):
    row, column = (int(p * n) for p, n in zip(place, size, strict=True))
    return row * size[1] + column


@pytest.mark.parametrize('cls', [GMLP, ResMLP, ShiftGMLP])
@pytest.mark.parametrize('size', [(8, 8), (11, 19), (3, 40)])
def test_rows_of_a_linear_layer_are_those_of_the_dense_weight(cls, size):
    model = cls(arch='nano', resolution='interpolate', pretrain_img_size=128).double()
    name, layer = list(mixing_layers(model).items())[-3]
    assert layer.resolution.grid == 8 and 'stages.2' in name
    weight = layer.f.weight.detach()
    torch.testing.assert_close(
        filters(layer, native_region(layer), RASTER).flatten(1),
        weight[[at(place, (8, 8)) for place in RASTER]],
    )
    down, up = dense(size, 8)
    region = make_region(weight.new_zeros(1, *size, 1), None, 8)
    expected = (up @ weight @ down)[[at(place, size) for place in RASTER]]
    torch.testing.assert_close(filters(layer, region, RASTER).flatten(1), expected)


def test_hidden_units_of_a_mixer_are_those_of_its_first_layer():
    model = MLPMixer(arch='nano', resolution='interpolate', pretrain_img_size=128).double()
    layer = list(mixing_layers(model).values())[-3]
    weight = layer.f.fc1.weight.detach()
    units = [i * len(weight) // 9 for i in range(9)]
    found = filters(layer, native_region(layer), RASTER)
    torch.testing.assert_close(found.flatten(1), weight[units])
    region = make_region(weight.new_zeros(1, 5, 13, 1), None, 8)
    down, _ = dense((5, 13), 8)
    torch.testing.assert_close(filters(layer, region, RASTER).flatten(1), weight[units] @ down)


@pytest.mark.parametrize('mode', ['window', 'grid'])
def test_other_modes_leave_the_rest_of_the_map_out(mode):
    model = GMLP(arch='nano', resolution=mode, pretrain_img_size=128).double()
    layer = list(mixing_layers(model).values())[-3]
    region = make_region(torch.zeros(1, 16, 24, 1).double(), None, 8)
    (row,) = filters(layer, region, [(0.9, 0.1)])  # of row 14 and column 2
    rows, columns = (slice(8, 16), slice(0, 8)) if mode == 'window' else (
        slice(0, 16, 2), slice(2, 24, 3))  # fmt: skip
    assert row[rows, columns].all() and row.count_nonzero() == 64


def test_models_without_such_weights_have_no_layer():
    for cls in (S2MLP, PoolFormer):
        assert mixing_layers(cls(arch='nano')) == {}


def run_tool(monkeypatch, *words):
    monkeypatch.setattr(sys, 'argv', ['visualize.py', *map(str, words)])
    runpy.run_path(str(ROOT / 'tools' / 'visualize.py'), run_name='__main__')


@pytest.mark.parametrize('scope', CONFIGS)
def test_the_tool_draws_an_image_and_a_layer(scope, tmp_path, monkeypatch, capsys):
    cv2.imwrite(str(tmp_path / 'a.png'), np.random.default_rng(0).integers(0, 255, (50, 90, 3)))
    checkpoint = save_small(scope, tmp_path / 'x.pth')
    run_tool(monkeypatch, checkpoint, tmp_path / 'a.png', '--out', tmp_path / 'out')
    for name in ('features', 'weights'):
        picture = cv2.imread(str(tmp_path / 'out' / f'{name}.png'))
        assert picture.std() > 20
    run_tool(monkeypatch, ROOT / CONFIGS[scope], '--out', tmp_path / 'two', '--layer',
             'backbone.stages.0.0.sgu.proj')  # fmt: skip
    assert [x.name for x in (tmp_path / 'two').iterdir()] == ['weights.png']
    assert 'no checkpoint: the weights are those of init_cfg' in capsys.readouterr().out


def test_a_plain_model_has_the_levels_of_its_neck(tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / 'a.png'), np.random.default_rng(0).integers(0, 255, (64, 99, 3)))
    config = ROOT / 'configs/plain/gmlp_s16_maskrcnn_coco.py'
    monkeypatch.chdir(tmp_path)
    run_tool(monkeypatch, config, 'a.png', '--cfg-options', 'model.backbone.init_cfg=None',
             'test_dataloader.dataset.pipeline.1.scale=(128,128)')  # fmt: skip
    assert (tmp_path / 'features.png').is_file() and (tmp_path / 'weights.png').is_file()


def test_what_is_wrong_is_said(tmp_path, monkeypatch):
    config = ROOT / CONFIGS['mmdet']
    (tmp_path / 'broken.jpg').write_bytes(b'no image')
    cases = [
        ([config, 'nowhere.jpg'], 'there is no nowhere.jpg'),
        ([config, tmp_path / 'broken.jpg'], 'broken.jpg is not an image'),
        ([config, '--layer', 'backbone.stages.0.0.sgu'], 'is not a token-mixing layer; did'),
        ([ROOT / 'configs/demo/s2mlp_maskrcnn.py'], 'has no token-mixing weights; give an image'),
        ([config, tmp_path / 'x.pth'], 'x.pth'),
    ]
    for words, message in cases:
        with pytest.raises(SystemExit) as end:
            run_tool(monkeypatch, *words, '--out', tmp_path / 'out')
        text = str(end.value)
        assert text.startswith('visualize.py: ') and message in text, text
        assert not (tmp_path / 'out').exists()
