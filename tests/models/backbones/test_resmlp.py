import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlp_backbones.models import PlainResMLP, ResMLP
from mlp_backbones.models.backbones.resmlp import DeployedResMLPBlock, ResMLPBlock
from mlp_backbones.models.layers import GRID_MODES, Resolution


def randomise(model):
    """Values in which a forgotten scale or shift shows."""
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(torch.randn_like(param) * 0.3 + 0.2)
    return model


def test_the_block_is_the_papers_equations():
    torch.manual_seed(0)
    block = randomise(ResMLPBlock(5, Resolution(3)))
    x = torch.randn(2, 9, 5)
    aff = block.norm1.alpha * x + block.norm1.beta
    tokens = block.linear_tokens.f
    z = x + block.ls1.gamma * (tokens.weight @ aff + tokens.bias[:, None])
    aff = block.norm2.alpha * z + block.norm2.beta
    hidden = torch.nn.functional.gelu(aff @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
    expected = z + block.ls2.gamma * (hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias)
    torch.testing.assert_close(block(x.view(2, 3, 3, 5)).flatten(1, 2), expected)


@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from(GRID_MODES),
    st.sampled_from([ResMLP, PlainResMLP]),
)
def test_deployment_changes_the_parameters_and_not_the_function(h, w, mode, cls):
    small = {
        ResMLP: dict(channels=(4, 6, 8, 10), depths=(1, 1, 1, 1)),
        PlainResMLP: dict(embed_dims=6, num_layers=2, patch_size=4),
    }
    model = randomise(cls(small[cls], pretrain_img_size=16, resolution=mode)).double().eval()
    x = torch.randn(2, 3, 4 * h, 4 * w, dtype=torch.float64)
    expected = model(x)
    before = sum(p.numel() for p in model.parameters())
    model.switch_to_deploy()
    assert not any(isinstance(m, ResMLPBlock) for m in model.modules())
    assert any(isinstance(m, DeployedResMLPBlock) for m in model.modules())
    for a, b in zip(expected, model(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert sum(p.numel() for p in model.parameters()) != before
    model.switch_to_deploy()  # a second time changes nothing
    torch.testing.assert_close(model(x)[-1], expected[-1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('arch, value', [('s12', 0.1), ('s24', 1e-5), ('s36', 1e-6)])
def test_layer_scale_starts_by_the_depth(arch, value):
    model = PlainResMLP(dict(PlainResMLP.presets[arch], num_layers=1))
    assert torch.equal(model.layers[0].ls1.gamma, torch.full((384,), value))
