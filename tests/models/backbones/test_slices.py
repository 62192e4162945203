"""Slices of large maps on a CPU, on small maps: they change no number, and only inference."""

import pytest
import torch
from families import every_resolution, small
from torch import nn
from torch.nn.functional import conv2d

from mlp_backbones.models import GMLP, PlainGMLP, ResMLP, ShiftGMLP
from mlp_backbones.models.backbones.gmlp import GMLPBlock
from mlp_backbones.models.layers import AnyResolution, Region, ZeroPaddedShift, slices
from mlp_backbones.models.layers.slices import by_bands

SIZES = [(90, 60), (31, 75)]


@pytest.fixture
def sliced(monkeypatch):
    """What went in slices, which these tests make small."""
    calls, is_sliced = [], slices.is_sliced

    def recorded(module, x, width):
        answer = is_sliced(module, x, width)
        if answer:
            calls.append(module)
        return answer

    monkeypatch.setattr(slices, 'SLICE', 2**9)
    monkeypatch.setattr(slices, 'is_sliced', recorded)
    return calls


@every_resolution
@pytest.mark.parametrize('sizes', [None, SIZES])
def test_slices_change_nothing(cls, resolution, sizes, sliced, monkeypatch):
    model, x = small(cls, resolution=resolution).eval(), torch.randn(2, 3, 90, 75)
    with torch.no_grad():
        outs = model(x, valid_sizes=sizes)
        assert sliced or 'GMLP' in cls.__name__
        monkeypatch.setattr(slices, 'SLICE', 2**40)
        for a, b in zip(outs, model(x, valid_sizes=sizes), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('cls', [GMLP, PlainGMLP])
def test_blocks_in_windows_go_in_bands(cls, sliced):
    with torch.no_grad():
        small(cls, resolution='window').eval()(torch.randn(1, 3, 90, 75))
    assert any(isinstance(m, GMLPBlock) for m in sliced)


@pytest.mark.parametrize('deploy', [False, True])
@pytest.mark.parametrize('sizes', [None, SIZES])
def test_blocks_of_shifts_go_in_bands(deploy, sizes, sliced, monkeypatch):
    model, x = small(ShiftGMLP).eval(), torch.randn(2, 3, 90, 75)
    if deploy:
        model.switch_to_deploy()
    with torch.no_grad():
        outs = model(x, valid_sizes=sizes)
        assert sliced and set(sliced) == set(model.stages[0])
        monkeypatch.setattr(slices, 'SLICE', 2**40)
        for a, b in zip(outs, model(x, valid_sizes=sizes), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_a_batch_norm_that_takes_statistics_goes_whole(sliced):
    block = small(ShiftGMLP).eval().stages[0][0]
    block.norm1.train()
    with torch.no_grad():
        by_bands(block, torch.randn(1, 30, 30, 8), Region((30, 30)), 1, 1)
    assert not sliced


def test_the_convolution_of_a_shift_is_the_shift(monkeypatch):
    shift, x = ZeroPaddedShift(3).eval(), torch.randn(2, 9, 7, 30)
    expected = shift(x)  # with gradients, by copies
    with torch.no_grad():
        calls = []
        monkeypatch.setattr(slices.F, 'conv2d', lambda *a, **k: calls.append(1) or conv2d(*a, **k))
        assert torch.equal(shift(x), expected) and calls


@pytest.mark.parametrize(
    'change',
    [
        lambda mlp: setattr(mlp, 'act', nn.Sequential(nn.GELU(), nn.Conv1d(75, 75, 3, padding=1))),
        lambda mlp: mlp.fc1.register_forward_hook(lambda *_: None),
        lambda mlp: mlp.train(),
    ],
)
def test_what_its_user_changed_or_trains_is_left_whole(change, sliced):
    mlp = small(ResMLP).eval().stages[0][0].mlp
    with torch.no_grad():
        mlp(torch.randn(90, 75, 8))
        assert sliced
        sliced.clear()
        change(mlp)
        mlp(torch.randn(90, 75, 8))
    assert not sliced


def test_gradients_take_no_slices(sliced):
    small(GMLP).eval()(torch.randn(1, 3, 90, 75))
    assert not sliced


def test_a_block_of_another_package_goes_whole(sliced):
    class Block(GMLPBlock):  # it may mix in other ways too
        pass

    model = small(GMLP, resolution='window').eval()
    for m in [m for m in model.modules() if isinstance(m, GMLPBlock)]:
        m.__class__ = Block
    with torch.no_grad():
        model(torch.randn(1, 3, 90, 75))
    assert any(isinstance(m, AnyResolution) for m in model.modules()) and not sliced
