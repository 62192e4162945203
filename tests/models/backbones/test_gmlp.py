import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlp_backbones.models import GMLP
from mlp_backbones.models.backbones.gmlp import GMLPBlock, SpatialGatingUnit
from mlp_backbones.models.layers import GRID_MODES, Resolution

side = st.integers(1, 40)


@given(side, side, st.sampled_from(GRID_MODES), st.booleans())
def test_the_gate_starts_as_one_at_every_size(h, w, mode, split):
    """W = 0 and b = 1: the unit leaves Z_1 as it is."""
    unit = SpatialGatingUnit(6, Resolution(7, mode), split)
    assert (unit.proj.f.bias == 1).all() and unit.proj.f.weight.abs().max() < 1e-4
    torch.nn.init.zeros_(unit.proj.f.weight)
    z = torch.randn(2, h, w, 6)
    torch.testing.assert_close(unit(z), z[..., : unit.out_dim], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('split', [True, False])
def test_the_block_is_the_papers_equation(split):
    torch.manual_seed(0)
    block = GMLPBlock(4, Resolution(3), ffn_ratio=6, sgu_split=split)
    torch.nn.init.normal_(block.sgu.proj.f.weight)
    x = torch.randn(2, 9, 4)  # n tokens as rows, as in the paper
    z = torch.nn.functional.gelu(block.norm(x) @ block.fc1.weight.T + block.fc1.bias)
    z1, z2 = (z[..., :12], z[..., 12:]) if split else (z, z)
    gate = block.sgu.proj.f.weight @ block.sgu.norm(z2) + block.sgu.proj.f.bias[:, None]
    expected = x + (z1 * gate) @ block.fc2.weight.T + block.fc2.bias
    torch.testing.assert_close(block(x.view(2, 3, 3, 4)).flatten(1, 2), expected)


def test_an_odd_width_cannot_be_split():
    with pytest.raises(ValueError, match='even width, not 9'):
        GMLP(arch=dict(channels=(3,) * 4, depths=(1,) * 4, ffn_ratio=3))
