"""Layer-wise learning-rate decay, for every backbone and from every code base."""

import re
import subprocess
import sys

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from mlp_backbones.engine.layer_decay import LayerDecayOptimWrapperConstructor, table
from mlp_backbones.models import GMLP, PlainBackbone, PyramidBackbone
from mlp_backbones.registry import MODELS

CLASSES = [
    cls
    for cls in MODELS.module_dict.values()
    if isinstance(cls, type) and issubclass(cls, (PlainBackbone, PyramidBackbone))
]
every = pytest.mark.parametrize('cls', CLASSES, ids=lambda c: c.__name__)
RATE, LR, DECAY = 0.5, 1e-2, 0.05


def small(cls, **kwargs):
    first = next(iter(cls.presets.values()))
    if issubclass(cls, PyramidBackbone):
        arch = dict(first, channels=(8, 8, 8, 8), depths=(1, 2, 1, 1))
    else:
        arch = dict(first, embed_dims=12, num_layers=3, patch_size=8)
    return cls(arch, pretrain_img_size=32, **kwargs)


class Detector(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))


def optim_wrapper(model, **paramwise_cfg):
    cfg = dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=LR, weight_decay=DECAY),
        constructor='mlp_backbones.LayerDecayOptimWrapperConstructor',
        paramwise_cfg={'layer_decay_rate': RATE, **paramwise_cfg},
    )
    return build_optim_wrapper(model, cfg)


def settings(model, **paramwise_cfg):
    """(scale of the learning rate, weight decay) by the parameter's name."""
    groups = optim_wrapper(model, **paramwise_cfg).optimizer.param_groups
    of = {id(p): (g['lr'] / LR, g['weight_decay']) for g in groups for p in g['params']}
    return {name: of[id(p)] for name, p in model.named_parameters() if id(p) in of}


@every
def test_depths_rise_in_the_order_of_the_forward_pass(cls):
    model = small(cls)
    blocks = model.num_blocks
    assert blocks == (5 if issubclass(cls, PyramidBackbone) else 3)
    order, handles = [], []
    for name, module in model.named_modules():
        if list(module.parameters(recurse=False)):
            hook = lambda module, args, name=name: order.append(name)  # noqa: E731
            handles.append(module.register_forward_pre_hook(hook))
    model(torch.randn(1, 3, 64, 64))
    depths = []
    for name in order:
        depth, count = model.get_layer_depth(f'backbone.{name}.weight', 'backbone.')
        assert count == blocks + 2
        if not name.startswith('norms.'):  # each output of a pyramid has its own
            depths.append(depth)
    assert depths == sorted(depths)
    found = {model.get_layer_depth(name)[0] for name, _ in model.named_parameters()}
    last = blocks + (any(name.startswith('norm') for name, _ in model.named_parameters()))
    assert found == set(range(last + 1))
    assert model.get_layer_depth('neck.weight', 'backbone.') == (blocks + 1, blocks + 2)


@every
def test_every_parameter_has_the_rate_of_its_layer_and_decays_if_it_is_a_matrix(cls):
    model = Detector(small(cls))
    found = settings(model)
    assert found.keys() == dict(model.named_parameters()).keys()
    for name, (scale, decay) in found.items():
        depth, count = model.backbone.get_layer_depth(name, 'backbone.')
        assert scale == pytest.approx(RATE ** (count - 1 - depth)), name
        plain = re.search(
            r'bias$|norm|alpha|beta|gamma|cls_token|pos_embed|neck.1', name
        ) and not name.endswith('reduction.weight')
        assert decay == (0 if plain else DECAY), name
    assert found['neck.0.weight'] == (1, DECAY)
    first = next(name for name, _ in model.named_parameters() if 'patch_embed' in name)
    stem, _ = found[first]
    assert stem == pytest.approx(RATE ** (model.backbone.num_blocks + 1))


def test_frozen_parameters_are_left_out():
    model = Detector(small(GMLP, frozen_stages=1))
    names = settings(model).keys()
    assert names == {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any(
        name.startswith(('backbone.patch_embed', 'backbone.stages.0')) for name in names
    )


def test_custom_keys_come_on_top():
    model = Detector(small(GMLP))
    before = settings(model)
    after = settings(
        model,
        custom_keys={
            'neck': dict(lr_mult=3.0),
            'sgu.proj': dict(decay_mult=0.0),
            'stages.1.0.sgu.proj.f.weight': dict(lr_mult=0.1, decay_mult=2.0),
        },
    )
    for name, (scale, decay) in before.items():
        expected = (scale, decay)
        if name.startswith('neck'):
            expected = (3.0, decay)
        if 'sgu.proj' in name:
            expected = (scale, 0.0)
        if 'stages.1.0.sgu.proj.f.weight' in name:
            expected = (0.1 * scale, 2 * DECAY)
        assert after[name] == pytest.approx(expected), name


def test_the_groups_are_printed_as_a_table():
    groups = optim_wrapper(Detector(small(GMLP))).optimizer.param_groups
    lines = table(groups).splitlines()
    assert lines[0].split() == 'layer lr scale lr weight decay parameters'.split()
    assert len(lines) == 1 + len(groups) < 20
    assert re.match(r'backbone.layer 0 +0.0156 +0.000156 +0.05 +384$', lines[1])
    assert re.match(r'rest of the model +1 +0.01 +0 +24$', lines[-1])


def test_it_trains():
    model = Detector(small(GMLP, drop_path_rate=0.0))  # which may leave a block out
    wrapper = optim_wrapper(model)
    before = {name: param.clone() for name, param in model.backbone.named_parameters()}
    outs = model.backbone(torch.rand(1, 3, 64, 64))
    # no sum of squares, which the norm of an output keeps
    wrapper.update_params(sum((out * torch.randn_like(out)).sum() for out in outs))
    moved = {n: (p - before[n]).abs().max() for n, p in model.backbone.named_parameters()}
    assert moved['patch_embed.proj.weight'] < moved['stages.3.0.fc2.weight'] / 8


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(layer_decay_rat=0.5), 'not layer_decay_rat=0.5; did you mean layer_decay_rate'),
        (dict(layer_decay_rate=1.5), 'layer_decay_rate=1.5 must be above 0 and at most 1'),
        (dict(layer_decay_rate=None), 'layer_decay_rate=None must be'),
        (dict(norm_decay_mult=1.0), 'not norm_decay_mult=1.0'),
        (dict(custom_keys=dict(neck=dict(lr=1))), r"custom_keys\['neck'\] takes lr_mult and"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        optim_wrapper(Detector(small(GMLP)), **options)


def test_what_mmengines_constructor_needs_is_implied():
    model = Detector(small(GMLP))
    inherited = dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0)
    assert settings(model, **inherited) == settings(model)


def test_a_backbone_without_depths_is_refused():
    with pytest.raises(ValueError, match='needs a backbone with get_layer_depth.*Conv2d has none'):
        optim_wrapper(nn.Conv2d(1, 1, 1))


def test_configs_of_other_code_bases_find_it_by_name():
    code = """
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
for scope in ('mmdet', 'mmseg'):
    with OPTIM_WRAPPER_CONSTRUCTORS.switch_scope_and_registry(scope) as registry:
        print(registry.get('mlp_backbones.LayerDecayOptimWrapperConstructor').__name__)
"""
    command = [sys.executable, '-c', code]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert found.count(LayerDecayOptimWrapperConstructor.__name__) == 2
