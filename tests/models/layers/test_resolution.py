import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from mlp_backbones.models.layers import (
    GRID_MODES,
    AnyResolution,
    Resolution,
    TokenLinear,
    build_resampling_matrix,
    parse_resolution,
)

side = st.integers(1, 40)
mode = st.sampled_from(GRID_MODES)
kernel = st.sampled_from(['bilinear', 'bicubic'])


def around(f, g, mode='interpolate', interpolation='bilinear'):
    return AnyResolution(f, Resolution(g, mode, interpolation))


def linear_mixer(grid):
    """A token mixer ``K x + b`` in float64, with its K and b."""
    linear = TokenLinear(grid**2, grid**2).double()
    torch.nn.init.normal_(linear.weight)
    torch.nn.init.normal_(linear.bias)
    return linear, linear.weight, linear.bias


@given(st.integers(1, 5), side, side, kernel)
def test_interpolate_is_the_dense_interpolated_weight(g, h, w, interpolation):
    f, weight, bias = linear_mixer(g)
    x = torch.randn(2, h, w, 3, dtype=torch.float64)

    def kron(a, b):
        return torch.kron(
            build_resampling_matrix(*a, interpolation), build_resampling_matrix(*b, interpolation)
        )

    down, up = kron((h, g), (w, g)), kron((g, h), (g, w))
    dense = up @ weight @ down @ x.flatten(1, 2) + (up @ bias)[:, None]
    mixed = around(f, g, 'interpolate', interpolation)(x)
    torch.testing.assert_close(mixed, dense.reshape(x.shape), rtol=1e-10, atol=1e-10)


@given(st.integers(1, 5), side, side, mode, kernel)
def test_constants_are_kept(g, h, w, mode, interpolation):
    """f = identity leaves any map of the modes that permute, and constants of all."""
    identity = around(torch.nn.Identity(), g, mode, interpolation)
    constant = torch.full((1, h, w, 2), 3.7, dtype=torch.float64)
    torch.testing.assert_close(identity(constant), constant)
    if mode != 'interpolate':
        x = torch.randn(2, h, w, 3)
        assert torch.equal(identity(x), x)


@given(st.integers(1, 14), mode, kernel)
def test_the_native_size_is_the_mixer_itself(g, mode, interpolation):
    f, _, _ = linear_mixer(g)
    x = torch.randn(2, g, g, 3, dtype=torch.float64)
    native = f(x.flatten(1, 2).mT).mT.view_as(x)
    assert torch.equal(around(f, g, mode, interpolation)(x), native)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_window_and_grid_apply_the_mixer_to_their_parts(g, rows, columns):
    f, _, _ = linear_mixer(g)
    x = torch.randn(1, g * rows, g * columns, 2, dtype=torch.float64)
    by_window = around(f, g, 'window')(x)
    by_grid = around(f, g, 'grid')(x)
    for r in range(rows):
        for s in range(columns):
            window = (slice(None), slice(r * g, r * g + g), slice(s * g, s * g + g))
            dilated = (slice(None), slice(r, None, rows), slice(s, None, columns))
            for mixed, part in ((by_window, window), (by_grid, dilated)):
                expected = f(x[part].flatten(1, 2).mT).mT.view(1, g, g, 2)
                torch.testing.assert_close(mixed[part], expected)


@given(st.integers(1, 5), side, side, st.sampled_from(['window', 'grid']))
def test_parts_at_the_border_are_parts_of_a_map_padded_with_zeros(g, h, w, mode):
    f, _, _ = linear_mixer(g)
    x = torch.randn(2, h, w, 3, dtype=torch.float64)
    padded = torch.nn.functional.pad(x, (0, 0, 0, -w % g, 0, -h % g))
    mixer = around(f, g, mode)
    torch.testing.assert_close(mixer(x), mixer(padded)[:, :h, :w])


class Flip(torch.nn.Module):
    def forward(self, x):
        return x.flip(-1)


def test_global_mixes_all_tokens_at_once():
    x = torch.randn(2, 3, 5, 4)
    out = around(Flip(), 14, 'global')(x)
    assert torch.equal(out, x.flip(1).flip(2))


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize('mode', GRID_MODES)
def test_memory_is_linear_at_detection_size(mode):
    mixer = TokenLinear(14 * 14, 14 * 14)
    x = torch.randn(1, 200, 336, 8, requires_grad=True)
    with LargestTensor() as largest:
        out = around(mixer, 14, mode)(x)
        out.sum().backward()
    assert largest.numel <= 210 * 336 * 8  # the map, up to whole windows


def test_parse_resolution():
    assert parse_resolution('grid', 2) == [['grid'], ['grid']]
    assert parse_resolution(('window', 'window+interpolate'), 2) == [
        ['window'],
        ['window', 'interpolate'],
    ]


@pytest.mark.parametrize('resolution', ['windows', 'window+', '', ('window', 'nearest')])
def test_an_unknown_mode_is_named_with_those_that_exist(resolution):
    with pytest.raises(
        ValueError, match="unknown here; choose among 'interpolate', 'window', 'grid'"
    ):
        parse_resolution(resolution, 2)


def test_other_bad_resolutions():
    with pytest.raises(ValueError, match='names 3 stages, but there are 4'):
        parse_resolution(('window',) * 3, 4)
    with pytest.raises(TypeError, match='neither a name'):
        parse_resolution(3, 4)
    with pytest.raises(ValueError, match="'nearest' is unknown; choose one of 'bilinear'"):
        Resolution(14, 'window', 'nearest')
    with pytest.raises(ValueError, match='mode .* unknown'):
        Resolution(14, 'tile')
