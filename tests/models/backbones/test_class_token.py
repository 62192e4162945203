import pytest
import torch

from mlp_backbones.models import PlainMLPMixer, PlainViT
from mlp_backbones.models.backbones.class_token import mix_with_class_token
from mlp_backbones.models.layers import ResolutionAdapter


@pytest.mark.parametrize('cls', [PlainMLPMixer, PlainViT])
@pytest.mark.parametrize('resolution', ['interpolate', 'window', 'grid', 'window+grid'])
def test_a_class_token_works_in_every_mode(cls, resolution):
    arch = dict(embed_dims=8, num_layers=2, patch_size=4)
    if cls is PlainViT:
        arch['num_heads'] = 2
    model = cls(arch, pretrain_img_size=16, cls_token=True, pos_embed=True, resolution=resolution)
    (tokens, token), *_ = model.forward_tokens(torch.randn(2, 3, 30, 41))
    assert tokens.shape == (2, 8, 11, 8) and token.shape == (2, 8)
    (tokens.sum() * token.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_at_native_size_the_mixer_sees_the_class_token_before_the_map():
    x = torch.randn(2, 1 + 9, 4)
    for mode in ('interpolate', 'window', 'grid', 'global'):
        adapter = ResolutionAdapter(3, mode)
        mixed = mix_with_class_token(adapter, lambda x, mask: x.flip(2), x, (3, 3))
        assert torch.equal(mixed, x.flip(1))


def test_the_class_token_is_the_mean_over_the_windows():
    x = torch.randn(2, 1 + 4 * 6, 5)

    def mixer(x, mask):  # (B, P, 1 + 4, C): the class token becomes the sum of its window
        token, window = x[:, :, :1], x[:, :, 1:]
        return torch.cat([window.sum(2, keepdim=True), token.expand_as(window)], dim=2)

    mixed = mix_with_class_token(ResolutionAdapter(2, 'window'), mixer, x, (4, 6))
    torch.testing.assert_close(mixed[:, 0], x[:, 1:].sum(1) / 6)
    assert torch.equal(mixed[:, 1:], x[:, :1].expand(-1, 24, -1))


def test_families_without_a_class_token_say_so():
    from mlp_backbones.models import PlainGMLP

    with pytest.raises(ValueError, match='PlainGMLP has no class token'):
        PlainGMLP('ti16', cls_token=True)
