"""Batch norms in a pyramid: in stems, merges and blocks."""

import pytest
import torch
from families import (
    close,
    expected_shapes,
    fixed,
    on_canvas,
    pyramid,
    random_loss,
    shapes,
    small,
    small_arch,
    valid_part,
)
from torch import nn

from mlp_backbones.checkpoints import guess_backbone, load_weights
from mlp_backbones.models import GMLP, ShiftGMLP
from mlp_backbones.models.layers import batch_norms

SIZES = [(40, 57), (64, 30)]


def statistics(model):
    return [b.clone() for b in model.buffers()]


@pyramid
def test_every_pyramid_takes_every_stem(cls):
    for stem in cls.stems:
        model = small(cls, stem=stem).eval()
        for size in ((64, 64), (1, 1), (37, 90)):
            assert shapes(model(torch.randn(2, 3, *size))) == expected_shapes(model, 2, *size)
        images = [torch.randn(3, *size) for size in SIZES]
        together = model(on_canvas(images, 70, 61, padding=torch.nan), valid_sizes=SIZES)
        for i, (image, size) in enumerate(zip(images, SIZES, strict=True)):
            ours, beyond_is_zero = valid_part(model, together, i, size)
            assert beyond_is_zero
            close(ours, [alone[0] for alone in model(image[None])])
        random_loss(model.train()(torch.randn(2, 3, 64, 64))).backward()
        assert all(p.grad.any() for p in model.parameters())
    with pytest.raises(
        ValueError, match="stem='convolution' is unknown; choose among 'patch', 'overlap', 'conv'"
    ):
        small(cls, stem='convolution')


@pyramid
def test_folded_it_is_the_same(cls):
    model = small(cls, stem='conv').eval()
    x = torch.randn(2, 3, 45, 71, requires_grad=True)
    expected = model(x, valid_sizes=[(45, 60), (30, 71)])
    weights = [torch.randn_like(o) for o in expected]
    (gradient,) = torch.autograd.grad(expected, x, weights)
    model.train().switch_to_deploy()
    assert not batch_norms(model) and not any(m.training for m in model.modules())
    folded = model(x, valid_sizes=[(45, 60), (30, 71)])
    close(folded, expected)
    close(torch.autograd.grad(folded, x, weights), [gradient], 1e-4)  # as attributions need it
    with torch.no_grad():
        close(model(x, valid_sizes=[(45, 60), (30, 71)]), expected)
    model.switch_to_deploy()  # a second time changes nothing
    close(model(x, valid_sizes=[(45, 60), (30, 71)]), expected)


def test_statistics_in_training_see_the_canvas():
    model, images = small(ShiftGMLP).train(), [torch.randn(3, *size) for size in SIZES]
    step, before = model.patch_embed.step1, statistics(model)
    mean = step.norm.running_mean.clone()
    model(on_canvas(images, 64, 64), valid_sizes=SIZES)
    assert all((a != b).any() for a, b in zip(before, statistics(model), strict=True))
    # of all positions, with zeros for what lies beyond the images
    seen = step.conv(on_canvas(images, 64, 64, padding=0)).mean((0, 2, 3))
    torch.testing.assert_close(step.norm.running_mean, 0.9 * mean + 0.1 * seen)


def test_norm_eval_keeps_the_statistics_and_trains_the_rest():
    model, x = small(ShiftGMLP, norm_eval=True).train(), torch.randn(1, 3, 64, 64)
    assert model.training and not any(m.training for m in batch_norms(model))
    before = statistics(model)
    random_loss(model(x)).backward()
    close(statistics(model), before, 0)
    assert all(p.grad.any() for p in model.parameters())
    # an image alone may be a single token of the last map
    assert all(o.isfinite().all() for o in model(torch.randn(1, 3, 20, 20)))


def test_frozen_stages_keep_their_statistics():
    model = small(ShiftGMLP, frozen_stages=2).train()
    for part, frozen in (
        (model.patch_embed, True),
        (model.stages[1], True),
        (model.merges[2], False),
    ):
        norms = batch_norms(part)
        assert norms and all(m.training != frozen for m in norms)
        assert all(p.requires_grad != frozen for m in norms for p in m.parameters())


def test_norm_cfg_is_what_other_backbones_take():
    norm_cfg = dict(type='SyncBN', requires_grad=True, momentum=0.03)
    torch.manual_seed(1)
    model = ShiftGMLP(small_arch(ShiftGMLP), norm_cfg=norm_cfg)
    assert all(isinstance(m, nn.SyncBatchNorm) for m in batch_norms(model))
    assert all(m.momentum == 0.03 for m in batch_norms(model))
    torch.manual_seed(1)
    plain = ShiftGMLP(small_arch(ShiftGMLP))
    close(model.state_dict().values(), plain.state_dict().values(), 0)
    x = torch.randn(1, 3, 64, 64)
    close(model.eval()(x), plain.eval()(x), 0)
    frozen = small(ShiftGMLP, norm_cfg=dict(type='BN', requires_grad=False))
    assert not any(p.requires_grad for m in batch_norms(frozen) for p in m.parameters())
    for bad, message in (
        ('LN', 'must be a batch norm of maps'),
        ('Ban', "'Ban'.* cannot be built"),
    ):
        with pytest.raises(ValueError, match=message):
            small(ShiftGMLP, norm_cfg=dict(type=bad))


@pytest.mark.parametrize('option', [dict(norm_eval=True), dict(norm_cfg=dict(type='SyncBN'))])
def test_settings_of_batch_norms_that_are_none_are_named(option):
    with pytest.raises(ValueError, match="GMLP has no batch norm .*; stem='conv' has some"):
        small(GMLP, **option)
    assert batch_norms(small(GMLP, stem='conv', **option))


@pytest.mark.parametrize('cls, stem', [(ShiftGMLP, 'conv'), (ShiftGMLP, 'patch'), (GMLP, 'conv')])
def test_a_checkpoint_tells_its_stem(cls, stem):
    weights = cls('nano', stem=stem, pretrain_img_size=128).state_dict()
    model = guess_backbone({f'backbone.{name}': value for name, value in weights.items()})
    assert type(model) is cls and {n: p.shape for n, p in model.state_dict().items()} == {
        n: p.shape for n, p in weights.items()
    }


def test_a_checkpoint_of_the_other_stem_is_named():
    message = (
        "this is a GMLP nano checkpoint .* backbone is GMLP nano with stem='conv': .* no place"
    )
    with pytest.raises(ValueError, match=message):
        load_weights(GMLP('nano', stem='conv'), GMLP('nano').state_dict())
    with pytest.raises(ValueError, match="this is a ShiftGMLP nano with stem='patch' checkpoint"):
        load_weights(ShiftGMLP('nano'), ShiftGMLP('nano', stem='patch').state_dict())


@pytest.mark.parametrize('bands', [1, 4])
def test_weights_of_rgb_images_serve_a_stem_of_other_bands(bands):
    source, model = small(ShiftGMLP), small(ShiftGMLP, in_channels=bands)
    report = load_weights(model, source.state_dict())
    assert any('patch_embed.step1.conv.weight of 3 bands' in note for note in report.notes)
    grey = torch.randn(1, 1, 40, 40)
    if bands == 1:
        close(model.eval()(grey), source.eval()(grey.expand(-1, 3, -1, -1)))


def test_a_folded_model_takes_autocast():
    model, x = small(ShiftGMLP).eval(), torch.randn(1, 3, 64, 64)
    reference = model(x)
    model.switch_to_deploy()
    with torch.autocast('cpu', torch.bfloat16):
        for ours, theirs in zip(model(x), reference, strict=True):
            assert (ours.float() - theirs).norm() < 0.05 * theirs.norm()


def test_weights_without_counts_are_complete(tmp_path):
    """A batch norm's count of batches is no weight; files of other tools lack it."""
    source = small(ShiftGMLP)
    without = {k: v for k, v in source.state_dict().items() if 'num_batches' not in k}
    as_floats = {k: v.float() for k, v in source.state_dict().items()}
    x = torch.randn(1, 3, 40, 40)
    for weights in (without, as_floats):
        torch.save(weights, tmp_path / 'x.pth')
        model = small(ShiftGMLP, pretrained=str(tmp_path / 'x.pth'))
        model.init_weights()
        close(fixed(model)(x), fixed(source)(x), 0)
