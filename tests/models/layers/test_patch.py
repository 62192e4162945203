import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mlp_backbones.models.layers import PatchEmbed, PatchMerging

side = st.integers(1, 50)


@given(side, side, st.sampled_from([4, 8, 16]))
def test_patch_embedding_is_a_strided_convolution(h, w, p):
    embed = PatchEmbed(3, 8, p)
    image = torch.randn(2, 3, h, w)
    conv = embed.proj(F.pad(image, (0, -w % p, 0, -h % p)))
    tokens = embed(image)
    assert tokens.is_contiguous()
    torch.testing.assert_close(tokens, conv.permute(0, 2, 3, 1), rtol=1e-5, atol=1e-5)


@given(side, side)
def test_patch_merging_joins_two_by_two_tokens(h, w):
    merge = PatchMerging(3, 5)
    x = torch.randn(2, h, w, 3)
    out = merge(x)
    assert out.shape == (2, -(-h // 2), -(-w // 2), 5)
    if h > 1 and w > 1:
        corner = torch.cat([x[:, 0, 0], x[:, 0, 1], x[:, 1, 0], x[:, 1, 1]], dim=-1)
        expected = merge.reduction(merge.norm(corner))
        torch.testing.assert_close(out[:, 0, 0], expected, rtol=1e-5, atol=1e-5)
