"""What every registered backbone promises, whatever its family."""

import copy
import io
import pickle

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmcv.ops import RoIAlign
from mmengine.registry import MODELS as ROOT
from mmengine.runner import load_checkpoint, save_checkpoint

from mlp_backbones.models import PyramidBackbone
from mlp_backbones.models.layers import GRID_MODES
from mlp_backbones.registry import MODELS

PYRAMIDS = [c for c in MODELS.module_dict.values() if issubclass(c, PyramidBackbone)]
PRESETS = [(c, name) for c in PYRAMIDS for name in c.presets]

pyramid = pytest.mark.parametrize('cls', PYRAMIDS, ids=lambda c: c.__name__)
preset = pytest.mark.parametrize(
    'cls, arch', PRESETS, ids=lambda v: v if isinstance(v, str) else v.__name__
)


def small(cls, **kwargs):
    """A pyramid of one block per stage, native at 64 x 64 pixels, that mixes for real."""
    arch = dict(channels=(8, 12, 16, 24), depths=(2, 1, 1, 1))
    torch.manual_seed(0)
    model = cls(**{**dict(arch=arch, pretrain_img_size=64, drop_path_rate=0.0), **kwargs})
    for name, param in model.named_parameters():
        if 'proj.weight' in name and 'patch_embed' not in name:
            torch.nn.init.trunc_normal_(param, std=0.1)  # published W start near 0
    return model


def expected_shapes(h, w, channels=(8, 12, 16, 24), batch=2):
    shapes = []
    for i, c in enumerate(channels):
        stride = 4 << i
        shapes.append((batch, c, -(-h // stride), -(-w // stride)))
    return shapes


@preset
def test_presets_build_and_have_the_documented_outputs(cls, arch):
    with torch.device('meta'):
        model = cls(arch=arch)
        outs = model(torch.rand(1, 3, 800, 1344))
    channels = cls.presets[arch]['channels']
    assert [tuple(o.shape) for o in outs] == expected_shapes(800, 1344, channels, batch=1)


@pyramid
@pytest.mark.parametrize('resolution', [*GRID_MODES, 'window+interpolate'])
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(h=st.integers(1, 150), w=st.integers(1, 150))
def test_any_size_gives_finite_maps_and_gradients_everywhere(cls, resolution, h, w):
    model = small(cls, resolution=resolution)
    outs = model(torch.randn(2, 3, h, w))
    assert [tuple(o.shape) for o in outs] == expected_shapes(h, w)
    assert all(o.is_contiguous() and o.isfinite().all() for o in outs)
    sum((o * torch.randn_like(o)).sum() for o in outs).backward()
    for name, param in model.named_parameters():
        assert param.grad is not None and param.grad.isfinite().all(), name


@pyramid
@pytest.mark.parametrize('size', [(1, 1), (1, 2100), (2100, 7), (2048, 2048), (33, 1333)])
def test_extreme_sizes(cls, size):
    with torch.no_grad():
        outs = small(cls).eval()(torch.randn(1, 3, *size))
    assert [tuple(o.shape) for o in outs] == expected_shapes(*size, batch=1)
    assert all(o.isfinite().all() for o in outs)


@pyramid
def test_every_parameter_learns_at_native_size(cls):
    model = small(cls)
    outs = model(torch.randn(2, 3, 64, 64))
    sum((o * torch.randn_like(o)).sum() for o in outs).backward()
    for name, param in model.named_parameters():
        assert param.grad.abs().sum() > 0, name


@pyramid
def test_images_of_a_batch_do_not_mix(cls):
    model = small(cls).eval()
    x = torch.randn(3, 3, 50, 70)
    for together, alone in zip(model(x), model(x[1:2])):
        torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


@pyramid
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_roi_align_reads_our_maps_right(cls, memory_format):
    """mmcv's RoIAlign ignores strides: it must see what a contiguous clone holds."""
    model = small(cls).eval().to(memory_format=memory_format)
    image = torch.randn(2, 3, 96, 64).to(memory_format=memory_format)
    rois = torch.tensor([[0, 3.0, 5.0, 40.0, 60.0], [1, 10.0, 1.0, 60.0, 90.0]])
    for level, out in enumerate(model(image)):
        align = RoIAlign(7, spatial_scale=1 / (4 << level), sampling_ratio=0)
        clone = out.detach().clone(memory_format=torch.contiguous_format)
        assert torch.equal(align(out.detach(), rois), align(clone, rois))
        assert out.stride() == torch.empty(out.shape).stride()


@pyramid
def test_with_cp_changes_nothing(cls):
    x = torch.randn(1, 3, 70, 50)
    plain, saving = small(cls).train(), small(cls, with_cp=True).train()
    for a, b in zip(plain(x), saving(x)):
        torch.testing.assert_close(a, b)
    sum(o.sum() for o in plain(x)).backward()
    sum(o.sum() for o in saving(x)).backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters()):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


@pyramid
@pytest.mark.parametrize('frozen', range(-1, 5))
def test_frozen_stages(cls, frozen):
    model = small(cls, frozen_stages=frozen, drop_path_rate=0.5)
    assert model.train() is model
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert any(n.startswith('patch_embed') for n in trainable) == (frozen < 0)
    for i in range(4):
        of_stage = (f'stages.{i}.', f'merges.{i}.', f'norms.{i}.')
        assert any(n.startswith(of_stage) for n in trainable) == (frozen <= i)
        assert model.stages[i].training == (frozen <= i)
    if frozen < 4:
        sum(o.sum() for o in model(torch.randn(1, 3, 64, 64))).backward()
        for name, p in model.named_parameters():
            assert (p.grad is not None) == (name in trainable), name


@pyramid
@pytest.mark.parametrize('out_indices', [(0,), (1, 3), (0, 1, 2), 2])
def test_out_indices(cls, out_indices):
    full, part = small(cls).eval(), small(cls, out_indices=out_indices).eval()
    part.load_state_dict({k: v for k, v in full.state_dict().items() if k in part.state_dict()})
    x = torch.randn(1, 3, 64, 96)
    indices = (out_indices,) if isinstance(out_indices, int) else out_indices
    everything = full(x)
    outs = part(x)
    assert len(outs) == len(indices)
    for i, out in zip(indices, outs):
        assert torch.equal(out, everything[i])
    sum(o.sum() for o in outs).backward()
    assert all(p.grad is not None for p in part.parameters())


@pyramid
def test_copies_pickles_and_state_dicts_are_the_same_model(cls, tmp_path):
    model = small(cls).eval()
    x = torch.randn(1, 3, 40, 72)
    expected = model(x)
    other = cls(
        arch=dict(channels=(8, 12, 16, 24), depths=(2, 1, 1, 1)), pretrain_img_size=64
    ).eval()
    save_checkpoint(dict(state_dict=model.state_dict()), str(tmp_path / 'model.pth'))
    load_checkpoint(other, str(tmp_path / 'model.pth'), strict=True)
    pickled = pickle.load(io.BytesIO(pickle.dumps(model)))
    for twin in (other, copy.deepcopy(model), pickled):
        for a, b in zip(expected, twin(x)):
            assert torch.equal(a, b)


@pyramid
def test_bf16_autocast(cls):
    model = small(cls)
    with torch.autocast('cpu', torch.bfloat16):
        outs = model(torch.randn(2, 3, 70, 90))
        sum(o.float().pow(2).mean() for o in outs).backward()
    reference = small(cls)(torch.randn(2, 3, 70, 90))
    assert all(o.isfinite().all() and o.shape == r.shape for o, r in zip(outs, reference))
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pyramid
def test_export_and_compile_give_the_eager_maps(cls):
    model = small(cls).eval()
    x = torch.randn(1, 3, 72, 100)
    with torch.no_grad():
        expected = model(x)
        exported = torch.export.export(model, (x,)).module()(x)
        compiled = torch.compile(model, fullgraph=True, backend='aot_eager')(x)
        again = model(x)
    for outs in (exported, compiled, again):
        for a, b in zip(expected, outs):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pyramid
@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_it_builds_from_other_scopes_by_both_names(cls, scope):
    pytest.importorskip(scope)
    registry = ROOT.children[scope] if scope in ROOT.children else None
    if registry is None:
        __import__(f'{scope}.registry')
        registry = ROOT.children[scope]
    for name in (f'mlp_backbones.{cls.__name__}', cls.__name__):
        assert type(registry.build(dict(type=name, arch='nano'))) is cls


@pyramid
@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(arch='tini'), "arch='tini' is no preset of .*'tiny'.*Did you mean 'tiny'"),
        (dict(arch=dict(depths=(1, 1, 1, 1))), r"lacks \['channels'\]"),
        (dict(arch=dict(channels=(8,) * 4, depths=(1, 1, 1))), '4 entries each'),
        (dict(resolution='tile'), "mode 'tile' is unknown here; choose among"),
        (dict(interpolation='nearest'), "interpolation='nearest' is unknown; choose one of"),
        (dict(out_indices=(0, 4)), r'out_indices=\(0, 4\) must be .* 0 to 3'),
        (dict(out_indices=()), r'out_indices=\(\) must be'),
        (dict(frozen_stages=5), 'frozen_stages=5 must be an integer from -1 to 4'),
        (dict(pretrain_img_size=0), 'pretrain_img_size=0 must be a positive'),
        (dict(drop_path_rate=1.5), 'drop_path_rate=1.5 must be'),
    ],
)
def test_bad_arguments_are_named(cls, kwargs, message):
    with torch.device('meta'), pytest.raises(ValueError, match=message):
        cls(**kwargs)


@pyramid
def test_bad_input_is_named(cls):
    model = small(cls)
    for shape in [(3, 64, 64), (1, 4, 64, 64), (1, 3, 0, 64)]:
        with pytest.raises(ValueError, match=r'takes images of shape \(B, 3, H, W\).*got'):
            model(torch.randn(*shape))
    with pytest.raises(TypeError, match='takes a floating-point image, not torch.uint8'):
        model(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(TypeError, match='takes a tensor, not list'):
        model([torch.zeros(3, 64, 64)])
    with pytest.raises(TypeError, match='must be the name of a preset or a dict'):
        cls(arch=3)


@pyramid
def test_pretrained_checkpoints(cls, tmp_path):
    source = small(cls)
    good, part, wide, text = (tmp_path / f'{n}.pth' for n in ('good', 'part', 'wide', 'text'))
    torch.save(dict(state_dict=source.state_dict()), good)
    torch.save({k: v for k, v in source.state_dict().items() if 'stages.3' not in k}, part)
    wider = dict(channels=(16, 24, 32, 48), depths=(2, 1, 1, 1))
    torch.save(small(cls, arch=wider).state_dict(), wide)
    text.write_text('no checkpoint')

    def load(path, **kwargs):
        model = small(cls, init_cfg=dict(type='Pretrained', checkpoint=str(path)), **kwargs)
        with torch.no_grad():
            [p.fill_(0.5) for p in model.parameters()]
        model.init_weights()
        return model

    for a, b in zip(source.state_dict().values(), load(good).state_dict().values()):
        assert torch.equal(a, b)
    load(good, pretrain_img_size=96)  # token weights are resized to the other grid
    with pytest.raises(FileNotFoundError, match='missing.pth.* does not exist'):
        load(tmp_path / 'missing.pth')
    with pytest.raises(ValueError, match='text.pth.* cannot be read as a checkpoint'):
        load(text)
    with pytest.raises(ValueError, match=r"part.pth.* lacks .*stages\.3"):
        load(part)
    with pytest.raises(ValueError, match=r'the checkpoint has shape .*, the model'):
        load(wide)
