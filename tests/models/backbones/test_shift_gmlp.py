import pytest
import torch
from families import small, small_arch
from hypothesis import given
from hypothesis import strategies as st

from mlp_backbones.models import GMLP, ShiftGMLP
from mlp_backbones.models.backbones.shift_gmlp import LocalGlobalMix, ShiftGMLPBlock
from mlp_backbones.models.layers import Resolution, make_region

side = st.integers(1, 9)
# (rows, columns) that the groups of channels move, in their order
MOVES = [(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)]


def shifted(v, group_dim):
    """Token by token: zeros where nothing comes to, and the last channels as they are."""
    moved = torch.zeros_like(v)
    moved[..., 8 * group_dim :] = v[..., 8 * group_dim :]
    _, h, w, _ = v.shape
    for k, (i, j) in enumerate(MOVES):
        group = slice(k * group_dim, (k + 1) * group_dim)
        for r in range(h):
            for c in range(w):
                if 0 <= r + i < h and 0 <= c + j < w:
                    moved[:, r + i, c + j, group] = v[:, r, c, group]
    return moved


# by stage of nano: channels of the half that is shifted, and of each of its eight groups
@pytest.mark.parametrize(
    'stage, dim, group_dim', [(0, 64, 4), (1, 64, 4), (2, 128, 12), (3, 256, 28)]
)
def test_thirty_two_channels_stay(stage, dim, group_dim):
    mix = ShiftGMLP('nano').stages[stage][0].gate
    assert (mix.shifted_dim, mix.shift.group_dim) == (dim, group_dim)
    assert dim - 8 * group_dim == 32
    assert (mix.mix is None) == (stage == 0)


@given(side, side, st.integers(8, 70))
def test_the_local_mix_shifts_in_eight_directions(h, w, dim):
    v = torch.randn(2, h, w, dim)
    mix = LocalGlobalMix(dim, None)
    torch.testing.assert_close(mix(v), shifted(v, mix.shift.group_dim), rtol=0, atol=0)


@given(st.lists(st.tuples(side, side), min_size=1, max_size=3))
def test_zeros_come_from_beyond_each_image(sizes):
    v = torch.randn(len(sizes), 10, 11, 40)
    mix = LocalGlobalMix(40, None)
    together = mix(v, make_region(v, torch.tensor(sizes)))
    for i, (h, w) in enumerate(sizes):
        assert torch.equal(together[i, :h, :w], mix(v[i : i + 1, :h, :w])[0])


@pytest.mark.parametrize('resolution', [None, Resolution(5)])
def test_the_block_is_its_equation(resolution):
    torch.manual_seed(0)
    block = ShiftGMLPBlock(12, resolution).eval()
    for norm in (block.norm1, block.norm2):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)

    def bn(norm, x):
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        return (x - norm.running_mean) * scale + norm.bias

    x = torch.randn(2, 5, 5, 12)
    u, v = bn(block.norm1, x @ block.fc1.weight.T).split(24, -1)
    if resolution is None:
        mixed = shifted(v, 1)
    else:
        weight = torch.nn.init.normal_(block.gate.mix.f.weight)
        tokens = (weight @ v[..., 12:].flatten(1, 2)).unflatten(1, (5, 5))
        mixed = torch.cat([shifted(v[..., :12], 1), tokens], -1)
    expected = x + bn(block.norm2, (u.relu() * (1 + mixed)) @ block.fc2.weight.T)
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(block.switch_to_deploy()(x), expected, rtol=1e-5, atol=1e-5)


def test_it_starts_as_in_the_trials():
    block = ShiftGMLP('nano').stages[2][0]
    for layer in (block.fc1, block.fc2):
        assert layer.bias is None
        assert float(layer.weight.std() * layer.in_features**0.5) == pytest.approx(1, abs=0.02)
    assert float(block.gate.mix.f.weight.std()) == pytest.approx(1e-3, rel=0.02)
    assert block.gate.mix.f.bias is None
    assert (block.norm2.weight == 0.1).all() and (block.norm1.weight == 1).all()


def test_nano_is_the_one_of_the_trials():
    """2.12 M parameters with grids of 8, 8 and 4 tokens a side, no norms of the outputs."""
    model = ShiftGMLP('nano', pretrain_img_size=128)
    assert sum(p.numel() for p in model.parameters()) == 2_115_472
    assert [stage[0].gate.mix.f.in_features for stage in model.stages[1:]] == [64, 64, 16]
    assert not any(True for _ in model.norms.parameters())


def test_only_its_blocks_do_without_a_grid():
    strides = dict(small_arch(ShiftGMLP), mixing_strides=(16, None, None, 32))
    grids = [stage[0].gate.mix is not None for stage in small(ShiftGMLP, arch=strides).stages]
    assert grids == [True, False, False, True]
    with pytest.raises(ValueError, match='mixing_strides=None must be a positive integer'):
        small(GMLP, arch=strides)


def test_eight_shifts_need_eight_channels():
    with pytest.raises(ValueError, match='eight shifts need 8 channels or more, not 7'):
        ShiftGMLPBlock(7, Resolution(4))
    with pytest.raises(ValueError, match='mlp_ratio=0 must be a positive number'):
        small(ShiftGMLP, mlp_ratio=0)
