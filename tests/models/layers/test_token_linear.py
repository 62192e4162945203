import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mlp_backbones.models.layers import (
    AnyResolution,
    Resolution,
    TokenLinear,
    build_resampling_matrix,
)


@given(st.integers(1, 20), st.integers(1, 20))
def test_it_is_a_linear_layer_whose_features_are_tokens(n, m):
    ours, reference = TokenLinear(n, m), nn.Linear(n, m)
    ours.load_state_dict(reference.state_dict())
    x = torch.randn(2, 5, n)
    assert torch.equal(ours(x), reference(x))


@given(st.integers(1, 6), st.integers(1, 9), st.sampled_from(['bilinear', 'bicubic']))
def test_a_checkpoint_of_another_grid_is_the_adapter_at_that_size(old, new, interpolation):
    """Loading K into grid m and running it at m is running K's adapter on m x m."""
    source = TokenLinear(old**2, old**2).double()
    nn.init.normal_(source.bias)
    target = TokenLinear(new**2, new**2, interpolation=interpolation).double()
    target.load_state_dict(source.state_dict())
    x = torch.randn(2, new, new, 3, dtype=torch.float64)
    expected = AnyResolution(source, Resolution(old, 'interpolate', interpolation))(x)
    torch.testing.assert_close(target(x.flatten(1, 2).mT).mT.view_as(x), expected)
    if old == new:
        assert torch.equal(target.weight, source.weight)


def test_one_side_can_be_without_space():
    source = TokenLinear(16, 5, spatial_out=False).double()
    target = TokenLinear(36, 5, spatial_out=False).double()
    target.load_state_dict(source.state_dict())
    down = build_resampling_matrix(6, 4)
    torch.testing.assert_close(target.weight, source.weight @ torch.kron(down, down))
    assert torch.equal(target.bias, source.bias)


def test_prefix_tokens_keep_their_weights():
    source = TokenLinear(17, 17, prefix_tokens=1).double()
    target = TokenLinear(37, 37, prefix_tokens=1).double()
    target.load_state_dict(source.state_dict())
    assert torch.equal(target.weight[0, 0], source.weight[0, 0])
    assert torch.equal(target.bias[0], source.bias[0])
    up, down = build_resampling_matrix(4, 6), build_resampling_matrix(6, 4)
    expected = torch.kron(up, up) @ source.weight[1:, 1:] @ torch.kron(down, down)
    torch.testing.assert_close(target.weight[1:, 1:], expected)


def test_shapes_that_cannot_be_reconciled_are_errors():
    with pytest.raises(ValueError, match=r'weight: .*\(15, 15\), the model .*square grid'):
        TokenLinear(16, 16).load_state_dict(TokenLinear(15, 15).state_dict())
    with pytest.raises(ValueError, match=r'weight: .*\(6, 16\), the model \(5, 16\)'):
        TokenLinear(16, 5, spatial_out=False).load_state_dict(TokenLinear(16, 6).state_dict())
