"""Pyramids as published: what the authors' code makes of images, from their files.

The files in tests/goldens come from tests/make_goldens.py.
"""

import math
import sys
from pathlib import Path

import pytest
import torch
from families import close, small
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from reference import import_timm
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from mlp_backbones.checkpoints import guess_backbone, load_weights
from mlp_backbones.engine import launch
from mlp_backbones.models import ConvMLP, PoolFormer
from mlp_backbones.models.layers import MapNorm, make_region

TESTS = Path(__file__).resolve().parents[2]
sys.path.append(str(TESTS))

from make_goldens import ARCH, SIZES, image  # noqa: E402

FAMILIES = {'poolformer': PoolFormer, 'convmlp': ConvMLP}
families = pytest.mark.parametrize('family', FAMILIES)


def golden(family):
    """The weights by the authors' names, and the maps by the size of the image."""
    content = load_file(TESTS / 'goldens' / f'{family}.safetensors')
    weights = {k.removeprefix('weights.'): v for k, v in content.items() if 'weights.' in k}
    maps = {size: [content[f'{size[0]}x{size[1]}.{i}'] for i in range(4)] for size in SIZES}
    return weights, maps


def as_classifier(family, weights):
    """Their ImageNet file: no norms of maps, but one before a classifier."""
    weights = {k: v for k, v in weights.items() if not k.startswith('norm')}
    width = ARCH['channels'][-1]
    extra = {'norm.weight': width, 'norm.bias': width, 'head.bias': 1000}
    weights |= {name: torch.randn(n) for name, n in extra.items()}
    return weights | {'head.weight': torch.randn(1000, width)}


def build(family, **settings):
    return FAMILIES[family](ARCH, **settings).eval()


@families
def test_maps_are_those_of_the_authors_code(family):
    model, (weights, maps) = build(family), golden(family)
    report = load_weights(model, weights)
    assert not report.left_out and not report.fresh
    for size, expected in maps.items():
        close(model(image(*size)), expected)  # with gradients, and without
        with torch.no_grad():
            close(model(image(*size)), expected)
            sizes = [size, (size[0] - 9, size[1] - 30)]
            canvas = torch.cat([image(*size), torch.randn(1, 3, *size)])
            close([out[:1] for out in model(canvas, valid_sizes=sizes)], expected)


@families
@pytest.mark.parametrize('wrapper', ['model', 'state_dict', 'module', None])
def test_their_imagenet_file_leaves_what_it_lacks_fresh_and_named(family, wrapper, tmp_path):
    weights, maps = golden(family)
    weights = as_classifier(family, weights)
    torch.save({wrapper: weights} if wrapper else weights, tmp_path / 'x.pth.tar')
    model = build(family, pretrained=str(tmp_path / 'x.pth.tar'))
    model.init_weights()
    for size, expected in maps.items():
        outs = model(image(*size))
        if family == 'convmlp':
            close(outs, expected)
    report = load_weights(model, weights)
    assert report.left_out == {
        'classifier': ['norm.weight', 'norm.bias', 'head.bias', 'head.weight']
    }
    norms = [f'norms.{i}.{name}' for i in range(4) for name in ('weight', 'bias')]
    assert report.fresh == (norms if family == 'poolformer' else [])


@families
def test_a_file_of_their_detector_is_one_of_ours(family, tmp_path):
    """The names of necks and heads are those of mmdet 2; the head's numbers are the authors'."""
    models = pytest.importorskip('mmdet.registry').MODELS
    weights, maps = golden(family)
    cfg = launch.load_config(f'{TESTS.parent}/configs/gmlp_maskrcnn_coco.py')
    init_default_scope('mmdet')
    cfg.model.backbone = dict(type=FAMILIES[family].__name__, arch=ARCH)
    cfg.model.neck.in_channels = list(ARCH['channels'])
    torch.manual_seed(0)
    detector = models.build(cfg.model).eval()
    parts = {k: v for k, v in detector.state_dict().items() if not k.startswith('backbone.')}
    theirs = {f'backbone.{name}': value for name, value in weights.items()} | parts
    torch.save(dict(meta=dict(mmdet_version='2.19.0'), state_dict=theirs), tmp_path / 'x.pth')
    load_checkpoint(detector, str(tmp_path / 'x.pth'), strict=True)
    for size, expected in maps.items():
        ours = detector.rpn_head(detector.extract_feat(image(*size)))
        theirs = detector.rpn_head(detector.neck(tuple(expected)))
        for a, b in zip(ours, theirs, strict=True):
            close(a, b)


@pytest.mark.parametrize('cls', FAMILIES.values())
def test_a_file_tells_its_preset(cls):
    for preset in cls.presets:
        with torch.device('meta'):
            weights = cls(preset).state_dict()
        model = guess_backbone({f'backbone.{name}': value for name, value in weights.items()})
        assert type(model) is cls
        assert {k: v.shape for k, v in model.state_dict().items()} == {
            k: v.shape for k, v in weights.items()
        }


@families
def test_a_file_of_the_other_family_is_named(family):
    (other,) = set(FAMILIES) - {family}
    weights, _ = golden(other)
    theirs, ours = FAMILIES[other].__name__, FAMILIES[family].__name__
    with pytest.raises(ValueError, match=f'is a {theirs} .* checkpoint .*backbone is {ours}'):
        load_weights(build(family), weights)


def test_another_preset_is_named():
    with torch.device('meta'):
        model, weights = PoolFormer('s24'), PoolFormer('s12').state_dict()
    with pytest.raises(
        ValueError, match='a PoolFormer s12 checkpoint .* backbone is PoolFormer s24'
    ):
        load_weights(model, weights)


# presets: parameters of the classifier in millions, and the keys of its file
PAPERS = [
    (PoolFormer, dict(s12=(11.9, 132), s24=(21.4, 252), s36=(30.9, 372))),
    (PoolFormer, dict(m36=(56.2, 372), m48=(73.5, 492))),
    (ConvMLP, dict(s=(9.0, 184), m=(17.4, 262), l=(42.7, 307))),
]


@pytest.mark.parametrize('cls, presets', PAPERS)
def test_parameters_and_keys_are_the_published_ones(cls, presets):
    for preset, (millions, keys) in presets.items():
        with torch.device('meta'):
            model = cls(preset)
        norms = [n for n in model.state_dict() if n.startswith('norms')]
        width = model.channels[-1]
        parameters = sum(p.numel() for n, p in model.named_parameters() if n not in norms)
        assert round((parameters + 2 * width + 1000 * (width + 1)) / 1e6, 1) == millions
        assert len(model.state_dict()) - len(norms) + 4 == keys


@pytest.mark.parametrize('preset', ['s12', 'm36'])
def test_poolformer_is_timms(preset):
    torch.manual_seed(0)
    theirs = import_timm().create_model(f'poolformer_{preset}').eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.normal_(std=0.1 if p.dim() < 2 else p[0].numel() ** -0.5)
    model = PoolFormer(preset).eval()
    report = load_weights(model, theirs.state_dict())
    assert report.source == 'timm' and len(report.fresh) == 8
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features, expected = theirs.stem(x), []
        for stage in theirs.stages:
            features = stage(features)
            expected.append(F.group_norm(features, 1))  # our norms of outputs are fresh
        for a, b in zip(model(x), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_a_norm_of_the_map_is_the_group_norm_of_the_image():
    norm, reference = MapNorm(6), nn.GroupNorm(1, 6)
    for p in norm.parameters():
        nn.init.normal_(p)
    reference.load_state_dict(norm.state_dict())
    x, sizes = torch.randn(2, 9, 7, 6) + 3, torch.tensor([[9, 7], [4, 5]])
    expected = reference(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    close([norm(x)], [expected])
    close([norm.eval()(x.detach())], [expected])
    region = make_region(x, sizes)
    close([norm(x, region)[0]], [expected[0]])
    alone = reference(x[1:, :4, :5].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    close([norm(x, region)[1:, :4, :5]], [alone])


@pytest.mark.parametrize('pool_size', [1, 3, 5])
def test_pooling_takes_the_tokens_of_the_image(pool_size):
    mixer = small(PoolFormer, arch=dict(ARCH, pool_size=pool_size)).stages[0][0].mixer
    x, sizes, reach = torch.randn(2, 5, 7, 3), [(5, 7), (3, 4)], pool_size // 2
    y = mixer(x, make_region(x, torch.tensor(sizes)))
    for i, (h, w) in enumerate(sizes):
        for row in range(h):
            for column in range(w):
                near = x[i, max(row - reach, 0) : min(row + reach + 1, h)]
                near = near[:, max(column - reach, 0) : min(column + reach + 1, w)]
                expected = near.mean((0, 1)) - x[i, row, column]
                torch.testing.assert_close(y[i, row, column], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('pool_size', [0, 2, 3.0])
def test_bad_pool_sizes_are_named(pool_size):
    with pytest.raises(ValueError, match=f'pool_size={pool_size} must be a positive odd integer'):
        PoolFormer('nano', pool_size=pool_size)


def test_stochastic_depth_of_convmlp_begins_anew_with_each_stage():
    """As in the authors' code: none in the convolutions, then from 0 to the rate."""
    rates = ConvMLP.drop_rates(0.1, (2, 2, 3, 1))
    expected = [[0, 0], [0, 0.1], [0, 0.05, 0.1], [0]]
    assert all(
        math.isclose(a, b)
        for x, y in zip(rates, expected, strict=True)
        for a, b in zip(x, y, strict=True)
    )
    model = ConvMLP('nano', drop_path_rate=0.2)
    assert [b.drop_path.drop_prob for b in model.stages[1]] == [0, 0.2]


def test_blocks_that_no_map_needs_are_not_built():
    model = ConvMLP(ARCH, out_indices=(0, 1))
    assert len(model.stages) == 2 and len(model.stages[0]) == 2 and len(model.stages[1]) == 0
    weights, _ = golden('convmlp')
    report = load_weights(model, weights)
    assert all(
        n.startswith(('stages.1', 'stages.2', 'stages.3', 'merges.2', 'merges.3'))
        for n in report.left_out['for no output']
    )
