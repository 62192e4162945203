"""What the papers say their models are equal to, and how they differ from one another."""

import torch
import torch.nn.functional as F
from torch import nn

from mlp_backbones.models import PlainMLPMixer, PlainViT
from mlp_backbones.models.backbones.vit import Attention
from mlp_backbones.models.layers import Mlp, TokenLinear


def test_token_mixing_is_a_depthwise_convolution_with_one_full_size_kernel_per_position():
    """MLP-Mixer, section 1: a single-channel convolution of a full receptive field."""
    g, c = 4, 3
    mix = TokenLinear(g * g, g * g)
    nn.init.normal_(mix.weight)
    x = torch.randn(2, g, g, c)
    for position, kernel in enumerate(mix.weight.unflatten(1, (g, g))):
        kernels = kernel.expand(c, 1, g, g)  # shared by the channels
        conv = F.conv2d(x.permute(0, 3, 1, 2), kernels, groups=c).flatten(1)  # (B, C)
        mixed = mix(x.flatten(1, 2).mT)[..., position] - mix.bias[position]
        torch.testing.assert_close(mixed, conv, rtol=1e-5, atol=1e-5)


def test_channel_mixing_is_two_pointwise_convolutions():
    mlp = Mlp(6, 10)
    x = torch.randn(2, 5, 7, 6)
    y = x.permute(0, 3, 1, 2)
    y = F.gelu(F.conv2d(y, mlp.fc1.weight[:, :, None, None], mlp.fc1.bias))
    y = F.conv2d(y, mlp.fc2.weight[:, :, None, None], mlp.fc2.bias)
    torch.testing.assert_close(mlp(x), y.permute(0, 2, 3, 1), rtol=1e-5, atol=1e-6)


def test_self_attention_is_permutation_equivariant_and_token_mixing_is_not():
    torch.manual_seed(0)
    attention, mix = Attention(8, num_heads=2), TokenLinear(9, 9)
    nn.init.normal_(mix.weight)
    x, order = torch.randn(2, 8, 9), torch.randperm(9)
    torch.testing.assert_close(attention(x[..., order]), attention(x)[..., order])
    assert not torch.allclose(mix(x[..., order]), mix(x)[..., order])


def tiny(cls, **kwargs):
    arch = dict(embed_dims=8, num_layers=2, patch_size=4)
    if cls is PlainViT:
        arch['num_heads'] = 2
    torch.manual_seed(0)
    return cls(arch, pretrain_img_size=16, cls_token=True, **kwargs).eval()


def class_tokens(model, order):
    """The class tokens of an image and of the same image with its patches in ``order``."""
    image = torch.randn(2, 3, 16, 16)
    patches = image.unfold(2, 4, 4).unfold(3, 4, 4).flatten(2, 3)[:, :, order]
    shuffled = patches.unflatten(2, (4, 4)).permute(0, 1, 2, 4, 3, 5).reshape(image.shape)
    return [model.forward_tokens(x)[0][1] for x in (image, shuffled)]


def test_the_class_token_of_attention_is_permutation_invariant_and_of_token_mixing_not():
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(*class_tokens(tiny(PlainViT), order))
    for model in (tiny(PlainMLPMixer), tiny(PlainViT, pos_embed=True)):
        for name, param in model.named_parameters():
            if 'mixer' in name or 'pos_embed' in name:
                nn.init.normal_(param)
        assert not torch.allclose(*class_tokens(model, order), atol=1e-3)


def test_vit_and_mixer_share_everything_but_the_mixer():
    def shapes(model):
        return {
            key: value.shape for key, value in model.state_dict().items() if '.mixer.' not in key
        }

    assert shapes(tiny(PlainViT)) == shapes(tiny(PlainMLPMixer))
    vit, mixer = tiny(PlainViT), tiny(PlainMLPMixer)
    vit.load_state_dict({**vit.state_dict(), **{k: mixer.state_dict()[k] for k in shapes(vit)}})
    for model in (vit, mixer):  # and what remains computes the same function
        for layer in model.layers:
            layer.mixer.forward = lambda x, region: x
    x = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(vit(x)[0], mixer(x)[0])
