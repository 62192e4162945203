"""At its native size each plain model is the published one: timm's, with its weights."""

import pytest
import torch
from reference import import_timm
from safetensors.torch import save_file

from mlp_backbones import models

# our class and preset, and timm's name
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
    ('PlainViT', 'b', 'deit_base_patch16_384'),
    ('PlainViT', 'ti', 'vit_tiny_patch16_224'),
    ('PlainViT', 's', 'vit_small_patch16_224'),
    ('PlainViT', 'b', 'vit_base_patch16_224'),
]
# With a distillation token, which ours have not: checked against timm's without it.
DISTILLED = [
    ('PlainViT', 'ti', 'deit_tiny_distilled_patch16_224'),
    ('PlainViT', 's', 'deit_small_distilled_patch16_224'),
    ('PlainViT', 'b', 'deit_base_distilled_patch16_224'),
    ('PlainViT', 'b', 'deit_base_distilled_patch16_384'),
]
published = pytest.mark.parametrize('cls, arch, name', PUBLISHED, ids=[p[2] for p in PUBLISHED])

# Without timm's counterpart: million parameters with a 1000-way head, from the papers.
PAPERS = [
    ('PlainMLPMixer', 'h14', 431),  # table 1
    ('PlainResMLP', 'b24', 115.7),  # table 1, B24 with patches of 16
    ('PlainS2MLP', 'wide', 71.4),
    ('PlainS2MLP', 'deep', 53.5),
]


def size_of(name: str) -> int:
    return int(name.rpartition('_')[2])


def num_parameters(model) -> int:
    return sum(p.numel() for p in model.parameters())


def test_every_model_of_timm_is_here():
    names = import_timm().list_models(['gmlp_*', 'mixer_*', 'resmlp_*', 'deit_*'])
    assert set(names) <= {name for *_, name in PUBLISHED + DISTILLED}


@published
def test_parameter_counts_are_the_published_ones(cls, arch, name):
    timm = import_timm()
    with torch.device('meta'):
        ours = getattr(models, cls)(arch, pretrain_img_size=size_of(name))
        theirs = timm.create_model(name)
    assert num_parameters(ours) + num_parameters(theirs.head) == num_parameters(theirs)


def reference(name: str, **kwargs):
    """timm's model with random weights, cut to two blocks."""
    with torch.device('meta'):
        model = import_timm().create_model(name, **kwargs)
    model.blocks = model.blocks[:2]
    model = model.to_empty(device='cpu').eval()
    torch.manual_seed(0)
    for key, param in model.named_parameters():  # no zeros and ones, which would hide errors
        ones = key.endswith(('norm.weight', 'norm1.weight', 'norm2.weight', 'alpha', 'proj.bias'))
        param.copy_(torch.randn_like(param) * 0.05 + ones)
    return model


def ours_from_file(cls, arch, state, size, path):
    """Our model with the weights of a file that holds ``state``."""
    (save_file if path.suffix == '.safetensors' else torch.save)(state, path)
    family = getattr(models, cls)
    depth = len({key.split('.')[1] for key in state if key.startswith('blocks.')})
    model = family(
        {**family.presets[arch], 'num_layers': depth},
        pretrain_img_size=size,
        init_cfg=dict(type='Pretrained', checkpoint=str(path)),
    )
    model.init_weights()
    path.unlink()
    return model.eval()


def assert_same_function(ours, theirs, size):
    """Equal features, and equal logits through their linear head, for images of ``size``."""
    x = torch.randn(1, 3, size, size)
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


@published
@torch.no_grad()
def test_features_and_logits_are_timms(cls, arch, name, tmp_path):
    theirs, size = reference(name), size_of(name)
    suffix = '.safetensors' if 'deit' in name or 'mixer' in name else '.pth'
    ours = ours_from_file(cls, arch, theirs.state_dict(), size, tmp_path / f'x{suffix}')
    assert_same_function(ours, theirs, size)


@torch.no_grad()
def test_a_head_of_21k_classes_changes_nothing(tmp_path):
    theirs = reference('mixer_b16_224', num_classes=21843)
    ours = ours_from_file('PlainMLPMixer', 'b16', theirs.state_dict(), 224, tmp_path / 'x.bin')
    assert_same_function(ours, theirs, 224)


@pytest.mark.parametrize('cls, arch, name', DISTILLED, ids=[p[2] for p in DISTILLED])
@torch.no_grad()
def test_distilled_models_lose_the_distillation_token(cls, arch, name, tmp_path):
    size = size_of(name)
    state = reference(name).state_dict()
    ours = ours_from_file(cls, arch, state, size, tmp_path / 'x.pth')
    theirs = reference(name.replace('_distilled', ''))
    theirs.load_state_dict(
        {key: value for key, value in state.items() if 'dist' not in key}
        | {'pos_embed': state['pos_embed'][:, [0, *range(2, state['pos_embed'].shape[1])]]}
    )
    assert_same_function(ours, theirs, size)


@pytest.mark.parametrize('cls, arch, millions', PAPERS)
def test_parameter_counts_are_the_papers(cls, arch, millions):
    with torch.device('meta'):
        model = getattr(models, cls)(arch)
    dim = model.presets[arch]['embed_dims']
    head = 0 if cls == 'PlainS2MLP' else 1000 * dim + 1000
    assert (num_parameters(model) + head) / 1e6 == pytest.approx(millions, rel=0.004)
