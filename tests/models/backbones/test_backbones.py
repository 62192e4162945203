"""What every registered backbone promises, whatever its family."""

import pytest
import torch
from families import (
    every,
    every_preset,
    every_resolution,
    expected_shapes,
    fixed,
    on_canvas,
    plain,
    pyramid,
    random_loss,
    shapes,
    small,
    small_arch,
    valid_part,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp_backbones.registry import MODELS, ROOT_MODELS, offer_bare_names


@every_preset
def test_presets_have_the_documented_outputs_at_detection_size(cls, arch):
    with torch.device('meta'):
        model = cls(arch=arch).eval()
        assert shapes(model(torch.rand(1, 3, 800, 1344))) == expected_shapes(model, 1, 800, 1344)


@every_resolution
@settings(max_examples=6)
@given(h=st.integers(1, 150), w=st.integers(1, 150))
def test_any_size_gives_finite_maps_and_gradients_everywhere(cls, resolution, h, w):
    model = small(cls, resolution=resolution)
    outs = model(torch.randn(2, 3, h, w))
    assert shapes(outs) == expected_shapes(model, 2, h, w)
    assert all(o.is_contiguous() and o.isfinite().all() for o in outs)
    random_loss(outs).backward()
    for name, param in model.named_parameters():
        assert param.grad is not None and param.grad.isfinite().all(), name


@every
@pytest.mark.parametrize('size', [(1, 1), (1, 2100), (2100, 7), (2048, 2048), (33, 1333)])
def test_extreme_sizes(cls, size):
    # attention over all tokens of the largest would need gigabytes
    model = small(cls, resolution='interpolate' if cls.modes else None).eval()
    with torch.no_grad():
        outs = model(torch.randn(1, 3, *size))
    assert shapes(outs) == expected_shapes(model, 1, *size)
    assert all(o.isfinite().all() for o in outs)


@every
def test_every_parameter_learns_at_native_size(cls):
    model = small(cls)
    random_loss(model(torch.randn(2, 3, 64, 64))).backward()
    for name, param in model.named_parameters():
        assert param.grad.abs().sum() > 0, name


@every_resolution
@settings(max_examples=6)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 100), st.integers(1, 100)), min_size=1, max_size=3),
    spare=st.tuples(st.integers(0, 40), st.integers(0, 40)),
)
def test_an_image_has_the_features_that_it_has_alone(cls, resolution, sizes, spare):
    """Whatever its batch-mates, its canvas, and what lies in its padding."""
    model = small(cls, resolution=resolution).eval()
    images = [torch.randn(3, *size) for size in sizes]
    h, w = (max(size[axis] for size in sizes) + spare[axis] for axis in (0, 1))
    with torch.no_grad():
        together = model(on_canvas(images, h, w), valid_sizes=sizes)
        assert shapes(together) == expected_shapes(model, len(images), h, w)
        for i, (image, size) in enumerate(zip(images, sizes, strict=True)):
            ours, beyond_is_zero = valid_part(model, together, i, size)
            assert beyond_is_zero
            for a, b in zip(ours, model(image[None]), strict=True):
                torch.testing.assert_close(a, b[0], rtol=1e-5, atol=1e-5)


@every
def test_an_image_has_the_gradients_that_it_has_alone(cls):
    model, sizes = fixed(small(cls)), [(40, 57), (64, 30)]
    images = [torch.randn(3, *size) for size in sizes]
    weights = [torch.randn_like(o[0]) for image in images for o in model(image[None])]
    alone, together = [], []
    for image in images:
        outs = [o[0] for o in model(image[None])]
        alone.append(sum((o * w).sum() for o, w in zip(outs, weights[: len(outs)], strict=True)))
        weights = weights[len(outs) :] + weights[: len(outs)]
    sum(alone).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    maps = model(on_canvas(images, 70, 70), valid_sizes=sizes)
    for i, size in enumerate(sizes):
        outs, _ = valid_part(model, maps, i, size)
        together.append(
            sum((o * w).sum() for o, w in zip(outs, weights[: len(outs)], strict=True))
        )
        weights = weights[len(outs) :] + weights[: len(outs)]
    sum(together).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-3, atol=1e-4, msg=name)


@every
def test_bad_valid_sizes_are_named(cls):
    model, x = small(cls), torch.randn(2, 3, 40, 50)
    full = (40, 50)
    for sizes in ([full], [full, (41, 50)], [full, (0, 3)], [(40,), full], full, [full, (9.5, 9)]):
        with pytest.raises(ValueError, match=r'valid_sizes=.* each of the 2 images.*\(40, 50\)'):
            model(x, valid_sizes=sizes)


@every
def test_images_of_a_batch_do_not_mix(cls):
    model = small(cls).eval()
    x = torch.randn(3, 3, 50, 70)
    for together, alone in zip(model(x), model(x[1:2]), strict=True):
        torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


@every
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_roi_align_reads_our_maps_right(cls, memory_format):
    """mmcv's RoIAlign ignores strides: it must see what a contiguous clone holds."""
    ops = pytest.importorskip('mmcv.ops')
    model = small(cls).eval().to(memory_format=memory_format)
    image = torch.randn(2, 3, 96, 64).to(memory_format=memory_format)
    rois = torch.tensor([[0, 3.0, 5.0, 40.0, 60.0], [1, 10.0, 1.0, 60.0, 90.0]])
    for out in model(image):
        align = ops.RoIAlign(7, spatial_scale=out.shape[-1] / 64, sampling_ratio=0)
        clone = out.detach().clone(memory_format=torch.contiguous_format)
        assert torch.equal(align(out.detach(), rois), align(clone, rois))
        assert out.stride() == torch.empty(out.shape).stride()


@every
def test_with_cp_changes_nothing(cls):
    x = torch.randn(1, 3, 70, 50)
    plain, saving = small(cls).train(), small(cls, with_cp=True).train()
    for a, b in zip(plain(x), saving(x), strict=True):
        torch.testing.assert_close(a, b)
    for model in (plain, saving):
        sum(o.square().sum() for o in model(x)).backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    # what is computed anew does not count twice in the statistics of a batch norm
    torch.testing.assert_close(saving.state_dict(), plain.state_dict())


@pyramid
@pytest.mark.parametrize('frozen', range(-1, 5))
def test_frozen_stages_of_a_pyramid(cls, frozen):
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
def test_out_indices_of_a_pyramid(cls, out_indices):
    full, part = small(cls).eval(), small(cls, out_indices=out_indices).eval()
    part.load_state_dict({k: v for k, v in full.state_dict().items() if k in part.state_dict()})
    x = torch.randn(1, 3, 64, 96)
    indices = (out_indices,) if isinstance(out_indices, int) else out_indices
    everything = full(x)
    outs = part(x)
    assert len(outs) == len(indices)
    for i, out in zip(indices, outs, strict=True):
        assert torch.equal(out, everything[i])
    sum(o.sum() for o in outs).backward()
    assert all(p.grad is not None for p in part.parameters())


@plain
@pytest.mark.parametrize('frozen', range(-1, 4))
def test_frozen_stages_of_a_plain_model(cls, frozen):
    model = small(cls, frozen_stages=frozen, drop_path_rate=0.5).train()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    stem = ('patch_embed', 'cls_token', 'pos_embed')
    assert any(n.startswith(stem) for n in trainable) == (frozen < 0)
    for i, layer in enumerate(model.layers):
        assert any(n.startswith(f'layers.{i}.') for n in trainable) == (frozen <= i)
        assert layer.training == (frozen <= i)
    assert any(n.startswith('norm.') for n in trainable) == (frozen < 3)


@plain
@pytest.mark.parametrize('out_indices', [0, (0, 2), -1, (0, -1)])
def test_out_indices_of_a_plain_model(cls, out_indices):
    part = small(cls, out_indices=out_indices).eval()
    x = torch.randn(1, 3, 64, 96)
    outs = part(x)
    assert len(outs) == (1 if isinstance(out_indices, int) else len(out_indices))
    assert len(part.layers) == (1 if out_indices == 0 else 3)
    random_loss(outs).backward()
    assert all(p.grad is not None for p in part.parameters())
    if part.out_indices[-1] == 2:  # the last map, normalised, is that of the default
        assert torch.equal(outs[-1], small(cls).eval()(x)[0])


@every
@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_it_builds_from_other_scopes_by_both_names(cls, scope):
    registry = pytest.importorskip(f'{scope}.registry').MODELS
    for name in (f'mlp_backbones.{cls.__name__}', cls.__name__):
        assert type(registry.build(dict(type=name, arch=small_arch(cls)))) is cls


@pyramid
@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(arch='nanu'), "arch='nanu' is not a preset of .*'nano'.*did you mean nano"),
        (dict(arch=dict(depths=(1, 1, 1, 1))), r"lacks \['channels'\]"),
        (dict(arch=dict(channels=(8,) * 4, depths=(1, 1, 1))), '4 entries each'),
        (dict(arch=dict(channels=8, depths=(1,) * 4)), r"4 entries each.*'channels': \(8,\)"),
        (dict(arch=dict(channels=(8,) * 4, depths=(1, 1, 0, 1))), 'depths=0 must be a positive'),
        (dict(out_indices=(0, 4)), r'out_indices=\(0, 4\) must be .* 0 to 3'),
        (dict(out_indices=()), r'out_indices=\(\) must be'),
        (dict(frozen_stages=5), 'frozen_stages=5 must be an integer from -1 to 4'),
        (dict(pretrain_img_size=0), 'pretrain_img_size=0 must be a positive'),
        (dict(drop_path_rate=1.5), 'drop_path_rate=1.5 must be'),
    ],
)
def test_bad_arguments_of_a_pyramid_are_named(cls, kwargs, message):
    with torch.device('meta'), pytest.raises(ValueError, match=message):
        cls(**kwargs)


@plain
@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(arch='x16'), "arch='x16' is not a preset of"),
        (dict(arch=dict(embed_dims=8)), r"lacks \['num_layers', 'patch_size'\]"),
        (dict(arch=dict(embed_dims=8, num_layers=0, patch_size=8)), 'num_layers=0 must be a pos'),
        (dict(out_indices=3), r'out_indices=\(3,\) must be .* 0 to 2'),
        (dict(out_indices=-4), 'must be distinct indices'),
        (dict(frozen_stages=4), 'frozen_stages=4 must be an integer from -1 to 3'),
        (dict(pretrain_img_size=-1), 'pretrain_img_size=-1 must be a positive'),
    ],
)
def test_bad_arguments_of_a_plain_model_are_named(cls, kwargs, message):
    with pytest.raises(ValueError, match=message):
        small(cls, **kwargs)


@every
def test_unknown_options_are_named(cls):
    with pytest.raises(TypeError, match=r'takes no pretrain_image_size; .* takes \['):
        small(cls, pretrain_image_size=64)
    with pytest.raises(TypeError, match='takes no dept'):
        small(cls, arch=dict(small_arch(cls), dept=3))


@every
def test_bad_resolutions_are_named(cls):
    if not cls.modes:
        with pytest.raises(ValueError, match="takes no mode; got resolution='window'"):
            small(cls, resolution='window')
        return
    with pytest.raises(ValueError, match="mode 'tile' is unknown here; choose among 'interp"):
        small(cls, resolution='tile')
    with pytest.raises(ValueError, match="interpolation='nearest' is unknown; choose one of"):
        small(cls, interpolation='nearest')
    if 'global' not in cls.modes:
        with pytest.raises(ValueError, match="mode 'global' is unknown here"):
            small(cls, resolution='global')


@every
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


def test_a_bare_name_belongs_to_whoever_else_wants_it():
    ours, taken = MODELS.get('ResMLP'), ROOT_MODELS.module_dict.copy()
    assert ROOT_MODELS.get('ResMLP') is ours
    try:

        @ROOT_MODELS.register_module()
        class ResMLP(torch.nn.Module):
            pass

        assert ROOT_MODELS.get('ResMLP') is ResMLP
        assert ROOT_MODELS.get('mlp_backbones.ResMLP') is ours
        with pytest.raises(KeyError, match='ResMLP is already registered'):
            ROOT_MODELS.register_module(module=ResMLP)
        # and if it came first
        offer_bare_names({'ResMLP': ours})
        assert ROOT_MODELS.get('ResMLP') is ResMLP
    finally:
        ROOT_MODELS.module_dict.update(taken)
    assert ROOT_MODELS.get('ResMLP') is ours


@every
def test_pretrained_is_what_mmseg_means_by_it(cls, tmp_path):
    source = small(cls)
    torch.save(source.state_dict(), tmp_path / 'x.pth')
    model = small(cls, pretrained=str(tmp_path / 'x.pth'))
    with torch.no_grad():
        next(model.parameters()).zero_()
    model.init_weights()
    torch.testing.assert_close(model.state_dict(), source.state_dict())
    assert small(cls, pretrained=None).init_cfg is None
    with pytest.raises(TypeError, match=r'another backbone, .* mmseg model=dict\(pretrained=None'):
        small(cls, pretrained='open-mmlab://resnet50_v1c')
    with pytest.raises(ValueError, match='both say where weights come from'):
        small(cls, pretrained='x.pth', init_cfg=dict(type='Pretrained', checkpoint='y.pth'))


def test_options_of_another_backbone_are_named_with_the_cure():
    with pytest.raises(TypeError, match=r"no depth, style; .*dict\(_delete_=True, type='GMLP', "):
        MODELS.get('GMLP')('nano', depth=50, style='pytorch')


@pyramid
def test_maps_that_nothing_uses_leave_no_parameter_without_a_gradient(cls):
    model, x = small(cls, with_cp=True).train(), torch.randn(2, 3, 40, 50)
    maps = model(x, valid_sizes=[(40, 50), (30, 20)])
    maps[2].relu_().sum().backward()  # a head may change a map in place
    for name, param in model.named_parameters():
        unused = ('norms.0', 'norms.1', 'norms.3', 'stages.3', 'merges.3')
        unused += ('stages.2',) * (2 in cls.taken_before)
        used = not name.startswith(unused)
        assert param.grad is not None and param.grad.any() == used, name


@every
def test_pretrained_checkpoints(cls, tmp_path):
    source = small(cls)
    good, part, wide, text = (tmp_path / f'{n}.pth' for n in ('good', 'part', 'wide', 'text'))
    torch.save(dict(state_dict=source.state_dict()), good)
    lost = next(reversed(dict(source.named_parameters())))
    torch.save({k: v for k, v in source.state_dict().items() if k != lost}, part)
    torch.save(small(cls, arch=small_arch(cls, width=16)).state_dict(), wide)
    text.write_text('no checkpoint')

    def load(path, **kwargs):
        model = small(cls, init_cfg=dict(type='Pretrained', checkpoint=str(path)), **kwargs)
        with torch.no_grad():
            [p.fill_(0.5) for p in model.parameters()]
        model.init_weights()
        return model

    for a, b in zip(source.state_dict().values(), load(good).state_dict().values(), strict=True):
        assert torch.equal(a, b)
    load(good, pretrain_img_size=96)  # token weights are resized to the other grid
    with pytest.raises(FileNotFoundError, match='missing.pth.* does not exist'):
        load(tmp_path / 'missing.pth')
    with pytest.raises(ValueError, match='text.pth.* cannot be read as a checkpoint'):
        load(text)
    with pytest.raises(ValueError, match=rf'part.pth.* lacks 1 .*{lost}'):
        load(part)
    with pytest.raises(ValueError, match=r'the checkpoint has shape .*, the model'):
        load(wide)
