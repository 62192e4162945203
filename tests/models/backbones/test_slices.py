"""Slices of large maps on a CPU, on small maps: they change no number, wherever they run."""

import pytest
import torch
from families import every, every_resolution, small
from torch import nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm

from mlp_backbones.models import GMLP, ResMLP
from mlp_backbones.models.layers import slices

SIZES = [(90, 60), (31, 75)]


def run(model, x, **kwargs):
    """Maps and gradients of training, and maps of inference."""
    model.train().zero_grad()
    torch.manual_seed(0)
    outs = model(x, **kwargs)
    sum(o.square().mean() for o in outs).backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    with torch.no_grad():
        return [*outs, *gradients, *model.eval()(x, **kwargs)]


@pytest.fixture
def count(monkeypatch):
    """The number of slices, which these tests make small."""
    calls, recompute = [], slices.recompute
    monkeypatch.setattr(slices, 'SLICE', 2**9)
    monkeypatch.setattr(slices, 'recompute', lambda *a: calls.append(a) or recompute(*a))
    return calls


@every_resolution
@pytest.mark.parametrize('sizes', [None, SIZES])
def test_slices_change_nothing(cls, resolution, sizes, count, monkeypatch):
    model, x = small(cls, resolution=resolution), torch.randn(2, 3, 90, 75)
    sliced = run(model, x, valid_sizes=sizes)
    assert count or 'GMLP' in cls.__name__ and resolution in ('interpolate', 'grid')
    monkeypatch.setattr(slices, 'ENABLED', False)
    for a, b in zip(sliced, run(model, x, valid_sizes=sizes), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_dropped_path_is_dropped_in_every_band_of_an_image(count):
    model = small(GMLP, resolution='window', drop_path_rate=0.9)
    block, adapter = model.stages[0][0], model.adapters[0][0]
    block.drop_path.drop_prob = 0.5
    x = torch.randn(8, 80, 24, 8)
    kept = (model.run(block, adapter, x, None) != x).flatten(1)
    assert len(count) > 8
    assert (kept.all(1) | ~kept.any(1)).all() and kept.any() and not kept.all()


@every
def test_gradients_at_weights_from_outside(cls, count):
    """What is computed again uses the weights of the forward pass, not those of the module."""
    model, x = small(cls), torch.randn(1, 3, 90, 75)
    weights = {name: (2 * p).detach().requires_grad_() for name, p in model.named_parameters()}
    outs = functional_call(model, weights, (x,))
    gradients = torch.autograd.grad(sum(o.square().mean() for o in outs), [*weights.values()])
    with torch.no_grad():
        model.load_state_dict(weights)
    sum(o.square().mean() for o in model(x)).backward()
    for gradient, param in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, param.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    'change',
    [
        lambda mlp: spectral_norm(mlp.fc1),
        lambda mlp: setattr(mlp, 'act', nn.Dropout(0.5)),
        lambda mlp: setattr(mlp, 'act', nn.Sequential(nn.GELU(), nn.Conv1d(75, 75, 3, padding=1))),
    ],
)
def test_what_its_user_changed_is_left_whole(change, count):
    mlp = small(ResMLP).stages[0][0].mlp
    mlp(torch.randn(90, 75, 8))
    assert count
    count.clear()
    change(mlp)
    mlp.train()(torch.randn(90, 75, 8))
    assert not count


def test_it_is_switched_off(count, monkeypatch):
    monkeypatch.setattr(slices, 'ENABLED', False)
    run(small(GMLP), torch.randn(1, 3, 90, 75))
    assert not count
