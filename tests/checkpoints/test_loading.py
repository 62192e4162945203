"""Loading into a backbone: all of the weights, of the right model, or a clear error."""

import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import facebook_resmlp, mmpretrain_mixer
from mmengine.logging import MMLogger
from mmengine.runner import load_checkpoint
from reference import import_timm
from safetensors.torch import save_file
from torch import nn

from mlp_backbones.checkpoints import KEY_MAPS, guess_backbone, load_pretrained, load_weights
from mlp_backbones.models import (
    GMLP,
    S2MLP,
    PlainGMLP,
    PlainMLPMixer,
    PlainResMLP,
    PlainS2MLP,
    PlainViT,
)
from mlp_backbones.models.layers import build_resampling_matrix
from mlp_backbones.registry import MODELS

SMALL = dict(embed_dims=8, num_layers=3, patch_size=4)
CLASSES = {
    PlainGMLP: SMALL,
    PlainMLPMixer: SMALL,
    PlainResMLP: SMALL,
    PlainViT: dict(SMALL, num_heads=2, cls_token=True, pos_embed=True),
}
OURS = [cls for cls in MODELS.module_dict.values() if getattr(cls, 'presets', None)]
every_class = pytest.mark.parametrize('cls', CLASSES, ids=lambda c: c.__name__)


def build(cls=PlainGMLP, size=16, **kwargs):
    """A small model of random weights."""
    arch = {**CLASSES.get(cls, SMALL), **kwargs.pop('arch', {})}
    model = cls(arch, pretrain_img_size=size, **kwargs)
    with torch.no_grad():
        [param.normal_() for param in model.parameters()]
    return model


def as_timm(model):
    """The weights of a model by timm's names, with a classifier."""
    family = type(model).__name__
    names = next(m for m in KEY_MAPS if m.family == family and 'timm' in m.source).names
    names = {ours: theirs for theirs, ours in names.items()}
    state = {'head.weight': torch.zeros(2, 8), 'head.bias': torch.zeros(2)}
    for name, value in model.state_dict().items():
        number = next((part for part in name.split('.') if part.isdigit()), '')
        star = name.replace(f'.{number}.', '.*.', 1)
        module, _, leaf = star.rpartition('.')
        theirs = names.get(star) or f'{names[module]}.{leaf}'
        if theirs == 'pos_embed' or leaf in ('alpha', 'beta'):
            value = value.view(1, -1, 8)
        state[theirs.replace('*', number)] = value.clone()
    return state


@pytest.fixture
def warnings():
    """The warnings in the log of mmengine."""
    texts = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield texts
    logger.removeHandler(handler)


def assert_equal(model, other):
    for (name, a), b in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@every_class
def test_the_same_grid_is_bit_equal(cls, tmp_path):
    source = build(cls)
    save_file(as_timm(source), tmp_path / 'x')
    model = build(cls, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'x')))
    model.init_weights()
    assert_equal(model, source)


@every_class
@settings(max_examples=10)
@given(old=st.integers(1, 6), new=st.integers(1, 6))
def test_another_grid_takes_the_matrices_of_the_adapter(cls, old, new):
    source, model = build(cls, 4 * old), build(cls, 4 * new)
    report = load_weights(model, as_timm(source))
    kind = model.pos_embed.interpolation if cls is PlainViT else 'bilinear'

    def kron(n_in, n_out):
        matrix = build_resampling_matrix(n_in, n_out, kind)
        return torch.kron(matrix, matrix).float()

    up, down = kron(old, new), kron(new, old)
    a, b = source.state_dict(), model.state_dict()
    per_layer = {
        PlainGMLP: {
            'sgu.proj.f.weight': lambda w: up @ w @ down,
            'sgu.proj.f.bias': lambda w: up @ w,
        },
        PlainResMLP: {
            'linear_tokens.f.weight': lambda w: up @ w @ down,
            'linear_tokens.f.bias': lambda w: up @ w,
        },
        PlainMLPMixer: {
            'mixer.f.fc1.weight': lambda w: w @ down,
            'mixer.f.fc2.weight': lambda w: up @ w,
            'mixer.f.fc2.bias': lambda w: up @ w,
        },
        PlainViT: {},
    }[cls]
    expected = {f'layers.{i}.{n}': f for i in range(3) for n, f in per_layer.items()}
    if cls is PlainViT:
        expected['pos_embed.weight'] = lambda w: torch.cat([w[:1], up @ w[1:]])
    for name in b:
        value = expected.get(name, lambda w: w)(a[name])
        torch.testing.assert_close(b[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert report.resized == ({} if old == new else dict.fromkeys(expected, (old, new)))
    if old != new:
        assert f'resized   {len(expected)} of them, from a grid of {old} x {old} to' in str(report)


@every_class
def test_a_whole_model_with_a_backbone_by_foreign_names(cls, tmp_path, warnings):
    """What load_from and --resume do: mmengine loads the whole model, our hook renames."""

    class Detector(nn.Module):
        def __init__(self, backbone):
            super().__init__()
            self.backbone = backbone
            self.neck = nn.Linear(2, 2)

    source, target = Detector(build(cls)), Detector(build(cls))
    foreign = {f'backbone.{k}': v for k, v in as_timm(source.backbone).items()}
    foreign |= {f'neck.{k}': v for k, v in source.neck.state_dict().items()}
    torch.save(dict(state_dict=foreign), tmp_path / 'x.pth')
    load_checkpoint(target, str(tmp_path / 'x.pth'), map_location='cpu')
    assert_equal(target, source)

    ours = dict(state_dict=source.state_dict())
    torch.save(ours, tmp_path / 'ours.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'ours.pth'))
    for prefix in ('backbone.', 'backbone', None):  # None: found by itself
        model = build(cls, init_cfg=dict(init_cfg, prefix=prefix))
        model.init_weights()
        assert_equal(model, source.backbone)
    with pytest.raises(ValueError, match="name that starts with prefix='neck.backbone.'"):
        build(cls, init_cfg=dict(init_cfg, prefix='neck.backbone')).init_weights()

    del ours['state_dict']['backbone.norm.' + ('beta' if cls is PlainResMLP else 'bias')]
    torch.save(ours, tmp_path / 'part.pth')
    load_checkpoint(target, str(tmp_path / 'part.pth'), map_location='cpu')
    assert f'{cls.__name__} keeps 1 of its own' in warnings[-1] and 'backbone.norm' in warnings[-1]
    other = Detector(build(PlainViT if cls is not PlainViT else PlainGMLP))
    with pytest.raises(ValueError, match=rf'this is a {cls.__name__} .*; the backbone is Plain'):
        load_checkpoint(other, str(tmp_path / 'x.pth'), map_location='cpu')


def test_weights_of_other_parts_leave_the_backbone_as_it_is(tmp_path, warnings):
    """A classifier in load_from, too: mmengine looks for `backbone.`, and goes on without."""
    model = nn.ModuleDict(dict(backbone=build()))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.save(as_timm(build()), tmp_path / 'x.pth')
    load_checkpoint(model, str(tmp_path / 'x.pth'), map_location='cpu')
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert any('PlainGMLP keeps 34 of its own 34 weights' in text for text in warnings)


def test_a_backbone_takes_foreign_names_by_itself():
    source, model = build(PlainResMLP), build(PlainResMLP)
    model.load_state_dict(facebook_resmlp(as_timm(source)))
    assert_equal(model, source)
    source, model = build(PlainMLPMixer), build(PlainMLPMixer)
    report = load_weights(model, mmpretrain_mixer(as_timm(source)))
    assert_equal(model, source)
    assert report.source == 'mmpretrain' and report.left_out == {
        'not of the backbone': ['head.fc.weight', 'head.fc.bias']
    }


@pytest.mark.parametrize('cls', [PlainGMLP, PlainMLPMixer, PlainResMLP, PlainViT])
def test_weights_with_earlier_names_of_ours_are_loaded(cls):
    """Of when neither the resolution adapter nor LayerScale was a module around a parameter."""
    source = build(cls)
    earlier = {
        name.replace('.f.', '.').removesuffix('.gamma'): value
        for name, value in source.state_dict().items()
    }
    assert earlier.keys() != source.state_dict().keys()
    by_torch, by_init_cfg = build(cls), build(cls)
    by_torch.load_state_dict(earlier)
    load_weights(by_init_cfg, earlier)
    assert_equal(by_torch, source)
    assert_equal(by_init_cfg, source)


def test_a_part_of_a_backbone_is_loaded_as_torch_does(warnings):
    source, model = build(), build()
    whole, before = source.state_dict(), {k: v.clone() for k, v in model.state_dict().items()}
    part = lose(whole)
    with pytest.raises(RuntimeError, match='Missing key.* .patch_embed.proj.weight'):
        build().load_state_dict(part)
    warnings.clear()
    result = model.load_state_dict({**part, 'head.weight': torch.ones(2)}, strict=False)
    assert set(result.missing_keys) == whole.keys() - part.keys()
    assert result.unexpected_keys == ['head.weight']
    assert all(torch.equal(v, part.get(k, before[k])) for k, v in model.state_dict().items())
    (text,) = warnings
    assert 'PlainGMLP keeps 17 of its own 34 weights: the checkpoint lacks patch' in text
    part['norm.bias'] = torch.ones(3)
    with pytest.raises(ValueError, match=r'norm.bias: the checkpoint has shape \(3,\)'):
        build().load_state_dict(part, strict=False)


@pytest.mark.parametrize('bands', [1, 2, 4, 7])
def test_weights_for_rgb_become_those_for_other_bands(bands, tmp_path):
    import_timm()
    from timm.models._manipulate import adapt_input_conv

    source = build()
    save_file(as_timm(source), tmp_path / 'rgb')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'rgb'))
    model = build(in_channels=bands, init_cfg=init_cfg)
    model.init_weights()
    whole = nn.ModuleDict(dict(backbone=build(in_channels=bands)))
    state = {f'backbone.{name}': value for name, value in source.state_dict().items()}
    whole.load_state_dict(state)
    expected = adapt_input_conv(bands, source.patch_embed.proj.weight)
    for m in (model, whole['backbone']):
        assert torch.equal(m.patch_embed.proj.weight, expected)
        assert torch.equal(m.layers[1].fc1.weight, source.layers[1].fc1.weight)
    report = load_weights(build(in_channels=bands), as_timm(source))
    assert 'patch_embed.proj.weight of 3 bands' in report.summary and report.notes[0] in str(
        report
    )


@pytest.mark.parametrize(
    'prefix', ['_orig_mod.', 'module._orig_mod.backbone.', 'model.backbone.', 'teacher.backbone.']
)
def test_what_wrappers_put_before_the_names_is_found(prefix, tmp_path):
    source, path = build(), tmp_path / 'x.pth'
    torch.save({prefix + name: w for name, w in source.state_dict().items()}, path)
    model = build()
    load_pretrained(model, str(path), prefix.removeprefix('module.'))
    assert_equal(model, source)
    model = build()
    report = load_pretrained(model, str(path))
    assert_equal(model, source)
    below = prefix.replace('_orig_mod.', '')
    assert report.prefix == below and (not below or f'below {below}' in report.summary)


def test_of_several_sets_of_weights_the_averaged_ones_are_loaded(tmp_path):
    raw, ema = build(), build()
    path = str(tmp_path / 'x.pth')
    torch.save(dict(state_dict=raw.state_dict(), state_dict_ema=ema.state_dict()), path)
    model = build()
    load_pretrained(model, path)
    assert_equal(model, ema)
    state = {f'student.backbone.{name}': value for name, value in raw.state_dict().items()}
    state |= {f'teacher.backbone.{name}': value for name, value in ema.state_dict().items()}
    torch.save(state, path)
    report = load_pretrained(model, path)
    assert_equal(model, ema)
    assert 'below teacher.backbone.' in report.summary
    assert len(report.left_out['not of the backbone']) == 34
    load_pretrained(model, path, prefix='student.backbone')
    assert_equal(model, raw)


def test_a_subclass_loads_whatever_its_parent_loads():
    class Mine(PlainGMLP):  # registered nowhere
        pass

    source, model = build(), Mine(SMALL, pretrain_img_size=16)
    report = load_weights(model, as_timm(source))
    assert_equal(model, source)
    assert report.backbone.startswith('Mine (width 8')
    load_weights(model, source.state_dict())
    model.load_state_dict(as_timm(source), strict=False)
    with pytest.raises(ValueError, match='this is a PlainResMLP .*; the backbone is Mine'):
        load_weights(model, GOOD)


@pytest.mark.parametrize('cls_token', [True, False])
def test_tokens_that_the_model_lacks_go_with_their_positions(cls_token):
    source = build(PlainViT)
    state = as_timm(source)
    state['dist_token'] = torch.randn(1, 1, 8)
    state['head_dist.weight'] = torch.randn(2, 8)
    pos_embed = state['pos_embed']
    state['pos_embed'] = torch.cat([pos_embed[:, :1], torch.randn(1, 1, 8), pos_embed[:, 1:]], 1)
    model = build(PlainViT, cls_token=cls_token)
    report = load_weights(model, state)
    skip = 0 if cls_token else 1
    assert torch.equal(model.pos_embed.weight, source.pos_embed.weight[skip:])
    assert report.left_out['distillation token'] == ['dist_token']
    assert report.left_out.get('class token', []) == ([] if cls_token else ['cls_token'])
    assert len(report.left_out['classifier']) == 3


def test_layers_that_no_output_needs_are_left_out():
    source = build()
    model = build(out_indices=1)
    report = load_weights(model, as_timm(source))
    left_out = report.left_out['for no output']
    assert {name.split('.')[0] for name in left_out} == {'layers', 'norm'}
    assert torch.equal(model.layers[1].fc1.weight, source.layers[1].fc1.weight)

    arch = dict(channels=(8, 8, 8, 8), depths=(1, 1, 2, 1))
    source, model = GMLP(arch), GMLP(arch, out_indices=(0, 2))
    report = load_weights(model, source.state_dict())
    tops = {'.'.join(name.split('.')[:2]) for name in report.left_out['for no output']}
    assert tops == {'stages.3', 'merges.3', 'norms.1', 'norms.3'}


def lose(state, every=2):
    return {key: value for i, (key, value) in enumerate(state.items()) if i % every}


GOOD = as_timm(build(PlainResMLP))
THIS = (
    r'this is a PlainResMLP \(width 8, 3 layers, patch 4\) checkpoint \(timm\); the backbone is '
)


@pytest.mark.parametrize(
    'state, model, message',
    [
        (GOOD, lambda: PlainGMLP('s16'), THIS + 'PlainGMLP s16'),
        (GOOD, lambda: GMLP('nano'), THIS + 'GMLP nano'),
        (
            build(PlainResMLP).state_dict(),
            build,
            r'this is a PlainResMLP .* checkpoint \(mlp_backbones\); the backbone is PlainGMLP',
        ),
        (
            S2MLP('nano').state_dict(),
            lambda: PlainS2MLP(SMALL),
            r'this is a S2MLP nano checkpoint \(mlp_backbones\); the backbone is PlainS2MLP',
        ),
        (
            GOOD,
            lambda: build(PlainResMLP, arch=dict(embed_dims=16)),
            THIS + r'PlainResMLP \(width 16.*patch_embed.proj.weight: the checkpoint has shape '
            r'\(8, 3, 4, 4\), the model \(16, 3, 4, 4\)',
        ),
        (
            GOOD,
            lambda: build(PlainResMLP, arch=dict(num_layers=2)),
            THIS + '.*2 layers.*no place for 12 weights of the checkpoint, such as .*layers.2.',
        ),
        (
            GOOD,
            lambda: build(PlainResMLP, arch=dict(num_layers=5)),
            THIS + '.*5 layers.*lacks 24 of the 64 weights',
        ),
        (
            lose(GOOD),
            lambda: build(PlainResMLP),
            'checkpoint .timm.; .* lacks 20 of the 40 weights',
        ),
        (
            GOOD | {'blocks.0.linear_tokens.weight': torch.zeros(15, 15)},
            lambda: build(PlainResMLP),
            r'layers.0.linear_tokens.f.weight: the checkpoint has shape \(15, 15\), the model '
            r'\(16, 16\); .*square grid',
        ),
        (
            GOOD | {'blocks.0.linear_tokens.bias': torch.zeros(4, 4)},
            lambda: build(PlainResMLP),
            r'linear_tokens.f.bias: the checkpoint has shape \(4, 4\), the model \(16,\)',
        ),
        (
            GOOD | {'blocks.0.ls3': torch.zeros(8)},
            lambda: build(PlainResMLP),
            'no place for 1 weights of the checkpoint, such as blocks.0.ls3',
        ),
        (
            {'conv1.weight': torch.zeros(2), 'layer1.0.bn1.weight': torch.zeros(2)},
            build,
            'names that match no known source: conv1.weight, .*GMLP of timm',
        ),
    ],
)
def test_what_does_not_fit_is_named(state, model, message):
    with torch.device('meta'):
        model = model()
    with pytest.raises(ValueError, match=message):
        load_weights(model, state)


@pytest.mark.parametrize('last', ['patch_embed.proj.weight', 'norm.bias'])
def test_what_does_not_fit_changes_nothing(last):
    state = build().state_dict()
    state[last] = state[last][:4]
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=f'{last}: the checkpoint has shape'):
        load_weights(model, state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_errors_say_who_asked_and_for_what(tmp_path):
    torch.save(GOOD, tmp_path / 'x.pth')
    model = build(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth')))
    with pytest.raises(ValueError, match='PlainGMLP: init_cfg .*x.pth: ' + THIS):
        model.init_weights()
    for address, kind in [('no.pth', FileNotFoundError), ('http://127.0.0.1:1/x', OSError)]:
        model = build(init_cfg=dict(type='Pretrained', checkpoint=address))
        with pytest.raises(kind, match=f'PlainGMLP: init_cfg names a checkpoint: {address} '):
            model.init_weights()


def test_what_is_not_finite_is_refused():
    state = as_timm(build())
    state['blocks.1.norm.bias'][0] = math.nan
    state['norm.bias'][0] = math.inf
    names = 'layers.1.norm.bias, norm.bias'
    with pytest.raises(ValueError, match=f'2 weights hold NaN or infinite values: {names}'):
        load_weights(build(), state)
    state = {name: torch.full_like(value, 2e38) for name, value in as_timm(build()).items()}
    load_weights(build(), state)  # their sum is not finite, but they are


def test_half_precision_becomes_that_of_the_model():
    source = build().half()
    model = build()
    load_weights(model, as_timm(source))
    assert model.norm.weight.dtype == torch.float32
    assert torch.equal(model.norm.weight, source.norm.weight.float())


@pytest.mark.parametrize('size', [224, 384])
@pytest.mark.parametrize('cls', OURS, ids=lambda c: c.__name__)
def test_the_model_of_a_checkpoint_is_guessed_from_its_names_and_shapes(cls, size):
    with torch.device('meta'):
        state = cls(next(iter(cls.presets)), pretrain_img_size=size).state_dict()
    guess = guess_backbone(state)
    assert type(guess) is cls
    assert [v.shape for v in guess.state_dict().values()] == [v.shape for v in state.values()]


def test_other_initial_values_come_before_the_checkpoint(tmp_path):
    source = build()
    torch.save(source.state_dict(), tmp_path / 'x.pth')
    init_cfg = [
        dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth')),
        dict(type='Constant', layer='LayerNorm', val=7.0),
    ]
    model = build(init_cfg=init_cfg)
    model.init_weights()
    assert_equal(model, source)
    assert model.init_cfg == init_cfg


@pytest.mark.parametrize('size', [224, 112])
def test_our_own_vit_goes_into_one_without_a_class_token(size, tmp_path):
    arch = dict(embed_dims=16, num_layers=2, patch_size=16, num_heads=2, pos_embed=True)
    source = PlainViT({**arch, 'cls_token': True}, pretrain_img_size=size)
    file = tmp_path / 'vit.pth'
    torch.save(source.state_dict(), file)
    model = PlainViT(arch)
    report = load_pretrained(model, str(file))
    assert report.left_out['class token'] == ['cls_token']
    if size == 224:
        assert torch.equal(model.pos_embed.weight, source.pos_embed.weight[1:])
    holder = torch.nn.Module()
    holder.backbone = PlainViT(arch)
    state = {f'backbone.{name}': value for name, value in source.state_dict().items()}
    holder.load_state_dict(state, strict=False)
    for a, b in zip(holder.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_are_no_weights_is_refused(tmp_path):
    model = PlainViT(dict(embed_dims=16, num_layers=1, patch_size=16, num_heads=2))
    file = tmp_path / 'int8.pth'
    torch.save({k: (127 * v).to(torch.int8) for k, v in model.state_dict().items()}, file)
    with pytest.raises(ValueError, match='holds torch.int8, not weights'):
        load_pretrained(model, str(file))
    torch.save(model.state_dict(), file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(ValueError, match='checksum|cannot be read'):
        load_pretrained(model, str(file))
