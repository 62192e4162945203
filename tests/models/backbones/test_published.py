"""At its native size each plain model is the published one: timm's, with its weights."""

import pytest
import torch
from reference import import_timm

from mlp_backbones import models
from mlp_backbones.checkpoints import KEY_MAPS, rename_keys

# our class and preset, timm's name, and what to build timm's with where its default differs
PUBLISHED = [
    ('PlainGMLP', 'ti16', 'gmlp_ti16_224'),
    ('PlainGMLP', 's16', 'gmlp_s16_224'),
    ('PlainGMLP', 'b16', 'gmlp_b16_224'),
    ('PlainMLPMixer', 's32', 'mixer_s32_224'),
    ('PlainMLPMixer', 's16', 'mixer_s16_224'),
    ('PlainMLPMixer', 'b32', 'mixer_b32_224'),
    ('PlainMLPMixer', 'b16', 'mixer_b16_224'),
    ('PlainMLPMixer', 'l32', 'mixer_l32_224'),
    ('PlainMLPMixer', 'l16', 'mixer_l16_224'),
    ('PlainResMLP', 's12', 'resmlp_12_224'),
    ('PlainResMLP', 's24', 'resmlp_24_224'),
    ('PlainResMLP', 's36', 'resmlp_36_224'),
    ('PlainResMLP', 'b24_8', 'resmlp_big_24_224'),
    ('PlainViT', 'ti', 'deit_tiny_patch16_224'),
    ('PlainViT', 's', 'deit_small_patch16_224'),
    ('PlainViT', 'b', 'deit_base_patch16_224'),
]
published = pytest.mark.parametrize('cls, arch, name', PUBLISHED, ids=[p[2] for p in PUBLISHED])

# Without timm's counterpart: million parameters with a 1000-way head, from the papers.
PAPERS = [
    ('PlainMLPMixer', 'h14', 431),  # table 1
    ('PlainResMLP', 'b24', 115.7),  # table 1, B24 with patches of 16
    ('PlainS2MLP', 'wide', 71.4),
    ('PlainS2MLP', 'deep', 53.5),
]


def num_parameters(model) -> int:
    return sum(p.numel() for p in model.parameters())


@published
def test_parameter_counts_are_the_published_ones(cls, arch, name):
    timm = import_timm()
    with torch.device('meta'):
        ours = getattr(models, cls)(arch)
        theirs = timm.create_model(name)
    assert num_parameters(ours) + num_parameters(theirs.head) == num_parameters(theirs)


def reference(name: str):
    """timm's model with random weights, cut to three blocks if it is large."""
    with torch.device('meta'):
        model = import_timm().create_model(name)
    if num_parameters(model) > 20e6:
        model.blocks = model.blocks[:3]
    model = model.to_empty(device='cpu').eval()
    torch.manual_seed(0)
    for key, param in model.named_parameters():  # no zeros and ones, which would hide errors
        ones = key.endswith(('norm.weight', 'norm1.weight', 'norm2.weight', 'alpha', 'proj.bias'))
        param.copy_(torch.randn_like(param) * 0.05 + ones)
    return model


@published
@torch.no_grad()
def test_features_and_logits_are_timms(cls, arch, name):
    theirs = reference(name)
    family = getattr(models, cls)
    ours = family({**family.presets[arch], 'num_layers': len(theirs.blocks)}).eval()
    ours.load_state_dict(rename_keys(theirs.state_dict(), KEY_MAPS['timm'][cls]))

    x = torch.randn(1, 3, 224, 224)
    features = theirs.forward_features(x)  # (B, N, C), ViT's with the class token first
    (tokens, token), *_ = ours.forward_tokens(x)
    mine = tokens.flatten(1, 2)
    if token is not None:
        mine = torch.cat([token[:, None], mine], dim=1)
    scale = features.abs().max()
    torch.testing.assert_close(mine / scale, features / scale, rtol=0, atol=1e-5)
    read_out = mine.mean(1) if token is None else token
    logits = theirs.head(read_out)
    expected = theirs(x)
    scale = expected.abs().max()
    torch.testing.assert_close(logits / scale, expected / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize('cls, arch, millions', PAPERS)
def test_parameter_counts_are_the_papers(cls, arch, millions):
    with torch.device('meta'):
        model = getattr(models, cls)(arch)
    dim = model.presets[arch]['embed_dims']
    head = 0 if cls == 'PlainS2MLP' else 1000 * dim + 1000
    assert (num_parameters(model) + head) / 1e6 == pytest.approx(millions, rel=0.004)
