import pytest
import torch

from mlp_backbones.models import PlainMLPMixer, PlainViT
from mlp_backbones.models.layers import AnyResolution, Region, Resolution, make_region


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


class Flip(torch.nn.Module):
    def forward(self, x):
        return x.flip(-1)


class Sums(torch.nn.Module):
    """The class token becomes the sum of its part, and the part the class token."""

    def forward(self, x):  # (B P, C, 1 + N)
        token, part = x[..., :1], x[..., 1:]
        return torch.cat([part.sum(-1, keepdim=True), token.expand_as(part)], dim=-1)


@pytest.mark.parametrize('mode', ['interpolate', 'window', 'grid', 'global'])
def test_at_native_size_the_mixer_sees_the_class_token_before_the_map(mode):
    x = torch.randn(2, 1 + 9, 4)
    mixer = AnyResolution(Flip(), Resolution(3, mode, prefix_tokens=1))
    assert torch.equal(mixer(x, Region((3, 3))), x.flip(1))


def test_the_class_token_is_the_mean_over_the_windows():
    x = torch.randn(2, 1 + 4 * 6, 5)
    mixed = AnyResolution(Sums(), Resolution(2, 'window', prefix_tokens=1))(x, Region((4, 6)))
    torch.testing.assert_close(mixed[:, 0], x[:, 1:].sum(1) / 6)
    assert torch.equal(mixed[:, 1:], x[:, :1].expand(-1, 24, -1))


def test_windows_without_a_token_of_an_image_have_no_say_in_its_class_token():
    x = torch.ones(1, 1 + 4 * 6, 5)
    region = make_region(x[:, 1:].unflatten(1, (4, 6)), torch.tensor([[2, 3]]))
    mixed = AnyResolution(Sums(), Resolution(2, 'window', prefix_tokens=1))(x, region)
    torch.testing.assert_close(mixed[:, 0], torch.full((1, 5), (4 + 2) / 2))


def test_families_without_a_class_token_say_so():
    from mlp_backbones.models import PlainGMLP

    with pytest.raises(ValueError, match='PlainGMLP has no class token'):
        PlainGMLP('ti16', cls_token=True)
