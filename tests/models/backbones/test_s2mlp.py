import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mlp_backbones.models import S2MLP, PlainS2MLP
from mlp_backbones.models.backbones.s2mlp import S2MLPBlock
from mlp_backbones.models.layers import Affine, SpatialShift, make_region

side = st.integers(1, 12)
directions = st.sampled_from([4, 8])
distance = st.integers(1, 3)

# where a token of each group comes from, as (rows, columns) of one step
SOURCES = [(0, -1), (0, 1), (-1, 0), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)]


@given(side, side, directions, distance, st.integers(8, 20))
def test_the_shift_reads_its_input_token_by_token(h, w, directions, distance, channels):
    """Index by index, from a copy: an in-place shift would read what it has written."""
    x = torch.randn(1, h, w, channels)
    expected = x.clone()
    for source, group in zip(
        SOURCES, torch.arange(channels).tensor_split(directions), strict=False
    ):
        for r in range(h):
            for c in range(w):
                i, j = r + distance * source[0], c + distance * source[1]
                if 0 <= i < h and 0 <= j < w:
                    expected[0, r, c, group] = x[0, i, j, group]
    untouched = x.clone()
    assert torch.equal(SpatialShift(directions, distance)(x), expected)
    assert torch.equal(x, untouched)


@given(st.integers(3, 12), st.integers(3, 12), directions)
def test_inside_the_border_it_is_a_one_hot_depthwise_convolution(h, w, directions):
    x = torch.randn(2, h, w, 16)
    kernel = torch.zeros(16, 1, 3, 3)
    for (i, j), group in zip(SOURCES, torch.arange(16).tensor_split(directions), strict=False):
        kernel[group, 0, 1 + i, 1 + j] = 1
    conv = F.conv2d(x.permute(0, 3, 1, 2), kernel, groups=16).permute(0, 2, 3, 1)
    assert torch.equal(SpatialShift(directions)(x)[:, 1:-1, 1:-1], conv)


@given(directions, distance, st.lists(st.tuples(side, side), min_size=1, max_size=3))
def test_each_image_of_a_batch_repeats_its_own_edge(directions, distance, sizes):
    shift, x = SpatialShift(directions, distance), torch.randn(len(sizes), 13, 12, 16)
    moved = shift(x, make_region(x, torch.tensor(sizes)))
    for i, (h, w) in enumerate(sizes):
        assert torch.equal(moved[i, :h, :w], shift(x[i : i + 1, :h, :w])[0])


def test_the_gradient_is_exact():
    x = torch.randn(1, 3, 4, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(SpatialShift(8), x)


def test_the_block_is_the_papers():
    torch.manual_seed(0)
    block = S2MLPBlock(8)
    x = torch.randn(2, 5, 4, 8)
    u = x + block.fc2(block.shift(F.gelu(block.fc1(block.norm1(x)))))
    expected = u + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(u))))
    torch.testing.assert_close(block(x), expected)


def test_wide_has_layer_norm_and_deep_has_affine():
    for arch, kind in (('wide', torch.nn.LayerNorm), ('deep', Affine)):
        model = PlainS2MLP({**PlainS2MLP.presets[arch], 'num_layers': 1})
        assert isinstance(model.layers[0].norm1, kind)
        assert isinstance(model.patch_embed.norm, torch.nn.LayerNorm)


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(shift_directions=6), 'shift_directions=6 must be 4 or 8'),
        (dict(shift_distance=0), 'shift_distance=0 must be a positive integer'),
        (dict(norm='BN'), "norm='BN' is unknown"),
    ],
)
def test_bad_options_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        S2MLP('nano', **kwargs)
