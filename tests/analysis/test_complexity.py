"""Parameters and multiply-accumulates against hand counts, papers and timm."""

import re
import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from mlp_backbones import models
from mlp_backbones.analysis.complexity import (
    PUBLISHED,
    count_macs,
    count_params,
    measure_backbone,
    measure_model,
)
from mlp_backbones.models.backbones.base import Backbone
from mlp_backbones.models.layers import Affine, Resolution
from mlp_backbones.registry import MODELS

ROOT = Path(__file__).resolve().parents[2]
PYRAMIDS = {c for c, cls in MODELS.module_dict.items() if getattr(cls, 'stems', None)}
BACKBONES = {
    k: c for k, c in MODELS.module_dict.items() if isinstance(c, type) and issubclass(c, Backbone)
}


def on_meta(make, *args, **kwargs):
    with torch.device('meta'):
        return make(*args, **kwargs).eval().requires_grad_(False)


def tokens(h, w, dim):
    return torch.empty(1, h, w, dim, device='meta')


# What a block multiplies on its own grid of n tokens of width d, by the papers' equations.
BLOCKS = {
    'gmlp': (models.GMLP, {}, lambda n, d: n * d * 6 * d + 3 * d * n * n + n * 3 * d * d),
    'gmlp unsplit': (
        models.GMLP,
        dict(sgu_split=False),
        lambda n, d: n * d * 6 * d + 6 * d * n * n + n * 6 * d * d,
    ),
    'amlp': (
        models.GMLP,
        dict(attn_dim=8),
        lambda n, d: 9 * n * d * d + 3 * d * n * n + n * d * 3 * 8 + 2 * n * n * 8 + n * 8 * 3 * d,
    ),
    'mlp_mixer': (models.MLPMixer, {}, lambda n, d: 2 * n * (d // 2) * d + 2 * n * d * 4 * d),
    'resmlp': (models.ResMLP, {}, lambda n, d: n * n * d + 2 * n * d * 4 * d),
    'shift_gmlp': (
        models.ShiftGMLP,
        {},
        lambda n, d: n * d * 4 * d + d * n * n + n * 2 * d * d,
    ),
    'poolformer': (models.PoolFormer, {}, lambda n, d: 2 * n * d * 4 * d),
    'convmlp': (models.ConvMLP, {}, lambda n, d: 4 * n * d * 2 * d + 9 * n * d),
    's2mlp': (models.S2MLP, {}, lambda n, d: 2 * n * d * d + 2 * n * d * 4 * d),
    'vit': (
        models.PlainViT,
        dict(num_heads=3),
        lambda n, d: 4 * n * d * d + 2 * n * n * d + 2 * n * d * 4 * d,
    ),
}


@pytest.mark.parametrize('cls, options, expected', BLOCKS.values(), ids=list(BLOCKS))
def test_a_block_is_counted_as_its_equation_says(cls, options, expected):
    block = on_meta(cls.make_block, dim=24, resolution=Resolution(7), **options)
    assert count_macs(block, tokens(7, 7, 24)) == expected(49, 24)


def test_both_products_of_attention_are_counted():
    q, k, v = (torch.empty(2, 3, n, 8, device='meta') for n in (5, 7, 7))
    assert count_macs(F.scaled_dot_product_attention, q, k, v) == 2 * 3 * (2 * 5 * 7 * 8)


@pytest.mark.parametrize(
    'mode, mixing',
    [
        # 2 x 3 parts, with zeros beyond the map
        ('window', 2 * 3 * 49**2 * 24),
        ('grid', 2 * 3 * 49**2 * 24),
        # resampled 13 x 17 -> 7 x 17 -> 7 x 7 and back, and mixed once
        ('interpolate', 49**2 * 24 + 2 * 24 * (7 * 13 * 17 + 7 * 7 * 17)),
    ],
)
def test_the_resolution_modes_cost_what_they_do(mode, mixing):
    block = on_meta(models.ResMLP.make_block, dim=24, resolution=Resolution(7, mode))
    assert count_macs(block, tokens(13, 17, 24)) == mixing + 2 * (13 * 17) * 24 * 96


class Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(func)
        return func(*args, **(kwargs or {}))


# Operators of aten that multiply, and a few that hide a loop of them.
MULTIPLYING = re.compile(r'mm|matmul|mv|dot|conv|attention|linear|einsum|fft|lstm|gru|cdist|ger')


@pytest.mark.parametrize('cls', BACKBONES.values(), ids=BACKBONES)
def test_no_operator_that_multiplies_is_left_out(cls):
    model = on_meta(cls, arch=next(iter(cls.presets)))
    with Operators() as operators:
        model(torch.empty(1, 3, 250, 333, device='meta'))
    multiplying = {op for op in operators.seen if MULTIPLYING.search(op.overloadpacket.__name__)}
    assert multiplying
    assert {op.overloadpacket for op in multiplying} <= set(flop_registry)


@pytest.mark.parametrize('cls, arch', PUBLISHED, ids=lambda v: v)
def test_published_numbers_are_reproduced(cls, arch):
    published = PUBLISHED[cls, arch]
    model = on_meta(BACKBONES[cls], arch=arch)
    params, macs = measure_backbone(model, (224, 224))
    if published.source.startswith('target'):
        assert params / 1e6 == pytest.approx(published.params, rel=0.03)
        assert macs / 1e9 == pytest.approx(published.gmacs, rel=0.05)
        return
    dim = model.channels[-1] if cls in PYRAMIDS else model.patch_embed.proj.out_channels
    if published.has_head:
        params, macs = params + 1000 * dim + 1000, macs + 1000 * dim
    if published.source in ('timm', 'fvcore'):
        macs += 5 * norm_elements(model)
    unit = 2**20 if published.source.endswith('2^20') else 1e6
    assert params / unit == pytest.approx(
        published.params, abs=half_a_digit(published, published.params)
    )
    if published.gmacs is not None:
        assert macs / 1e9 == pytest.approx(
            published.gmacs, abs=half_a_digit(published, published.gmacs)
        )


def half_a_digit(published, number):
    """Half a unit in the last digit that is printed: timm prints two decimals."""
    decimals = 2 if published.source == 'timm' else len(str(number).partition('.')[2])
    return 0.501 * 10.0**-decimals


def norm_elements(model):
    """Elements that the norms of ``model`` see in an image of 224 x 224."""
    seen = []
    hooks = [
        m.register_forward_hook(lambda m, args, out: seen.append(out.numel()))
        for m in model.modules()
        if isinstance(m, (nn.LayerNorm, nn.GroupNorm))
    ]
    model(torch.empty(1, 3, 224, 224, device='meta'))
    for hook in hooks:
        hook.remove()
    return sum(seen)


def test_every_published_preset_has_its_published_numbers():
    known = {(name, arch) for name, cls in BACKBONES.items() for arch in cls.presets}
    assert set(PUBLISHED) <= known
    small = {(c, a) for c, a in known if a in ('nano', 'pico') and not c.startswith('Plain')}
    assert known - set(PUBLISHED) == small


@pytest.mark.parametrize(
    'arch, c, depth, params, gmacs', [('wide', 768, 12, 71.4, 14.0), ('deep', 384, 36, 53.5, 10.5)]
)
def test_s2mlp_follows_the_formula_of_its_paper(arch, c, depth, params, gmacs):
    """Sec. 3.3 counts the fully-connected layers with their biases: the patch embedding and
    four in a block, of widths c, c, r c and c. Norms and classifier are not in it.
    """
    p, r, num_tokens = 16, 4, 14 * 14
    weights_of_block = 2 * c * c + 2 * c * (r * c)
    in_formula = (3 * p * p + 1) * c + depth * (weights_of_block + (3 + r) * c)
    macs = num_tokens * (3 * p * p * c + depth * weights_of_block)

    model = on_meta(models.PlainS2MLP, arch=arch)
    norms = sum(count_params(m) for m in model.modules() if isinstance(m, (nn.LayerNorm, Affine)))
    assert norms == 2 * c * (2 * depth + 2)  # two in a block, the patch embedding's, the last
    measured = measure_backbone(model, (224, 224))
    assert measured.params - norms == in_formula
    assert measured.macs == macs
    assert in_formula / 1e6 == pytest.approx(params, abs=0.05)
    assert macs / 1e9 == pytest.approx(gmacs, abs=0.05)


def test_counting_leaves_the_model_alone():
    model = models.PlainViT(dict(embed_dims=16, num_layers=1, patch_size=16, num_heads=2))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert measure_backbone(model, (64, 96)) == measure_backbone(model, (64, 96))
    assert model.training and all(p.requires_grad and not p.is_meta for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize('size', [(224,), (0, 224), (224.0, 224)])
def test_a_size_is_two_positive_integers(size):
    with pytest.raises(ValueError, match='height and width'):
        measure_backbone(on_meta(models.S2MLP, arch='nano'), size)


SWIN_T = dict(type='SwinTransformer', embed_dims=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24])


@pytest.mark.slow
@pytest.mark.parametrize(
    'config, size, params, gmacs',
    [
        ('gmlp_maskrcnn_coco.py', (800, 1280), 48, 267),
        ('gmlp_upernet_ade20k.py', (512, 2048), 60, 945),
    ],
)
def test_whole_models_are_counted_as_swins_authors_did(config, size, params, gmacs):
    cfg = Config.fromfile(ROOT / 'configs' / config)
    init_default_scope(cfg.default_scope)
    parts = measure_model(ROOT_MODELS.build({**cfg.model, 'backbone': SWIN_T}), size)
    assert sum(p.params for p in parts.values()) / 1e6 == pytest.approx(params, abs=0.5)
    assert sum(p.macs for p in parts.values()) / 1e9 == pytest.approx(gmacs, abs=1)


def test_a_model_with_other_parts_is_not_counted_by_halves():
    model = nn.Module()
    model.backbone = models.S2MLP('nano')
    model.encoder = nn.Linear(2, 2)
    with pytest.raises(ValueError, match='part by part beyond backbone'):
        measure_model(model, (64, 64))


TOOL = runpy.run_path(str(ROOT / 'tools' / 'get_flops.py'))


def get_flops(*words):
    return TOOL['run'](TOOL['parse_args'](list(words)))


def test_the_tool_knows_every_backbone_and_preset():
    known = [(cls, arch) for cls in BACKBONES.values() for arch in cls.presets]
    assert TOOL['select'](None, None) == known


def test_the_tool_prints_measured_and_published_numbers():
    lines = get_flops('--backbone', 'PlainGMLP', '--arch', 'ti16').splitlines()
    assert re.split(r'\s\s+', lines[1]) == [
        *('PlainGMLP', 'ti16', '5.74', '5.87', '5.87', '+0.0 %'),
        *('1.33', '1.34', '-0.8 %', '21.17', 'timm'),
    ]
    larger = get_flops('--backbone', 'PlainGMLP', '--arch', 'ti16', '--options', 'attn_dim=64')
    assert 'timm' not in larger.splitlines()[1]  # no published model


def test_the_tool_compares_resolution_modes():
    words = ('--arch', 'nano', 's', '--modes', '--shape', '256', '320', '--markdown')
    lines = get_flops('--backbone', 'GMLP', 'S2MLP', 'PlainViT', *words).splitlines()
    assert lines[0].startswith('| GMACs 256 x 320 | arch | interpolate | window | grid | global')
    assert [line.count('| - ') for line in lines[2:]] == [1, 4, 0]


@pytest.mark.parametrize(
    'words, message',
    [
        (['--backbone', 'GMPL'], 'choose among ConvMLP, GMLP'),
        (['--backbone', 'GMLP', '--arch', 'tni'], 'the presets of GMLP'),
        (['--backbone', 'S2MLP', '--arch', 'nano', '--shape', '0', '9'], 'height and width'),
        (['nothing.py'], 'no config file'),
    ],
)
def test_mistakes_on_the_command_line_are_named(words, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        get_flops(*words)


def test_the_tool_counts_the_model_of_a_config():
    rows = [re.split(r'\s\s+', line) for line in get_flops(
        str(ROOT / 'configs' / 'gmlp_maskrcnn_coco.py'),
        '--shape', '64', '96', '--cfg-options', 'model.backbone.arch=nano',
        'model.neck.in_channels=[32,64,128,256]',
    ).splitlines()]  # fmt: skip
    assert rows[0][1:] == ['params M', 'GMACs 64 x 96']
    assert [row[0] for row in rows[1:]] == [
        *('backbone', 'neck', 'rpn_head', 'bbox_head', 'mask_head', 'all')
    ]
    assert rows[1][1] == '2.37'
