"""Every published layout becomes ours, and back, without a change of a bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import facebook_resmlp, google_mixer, mmpretrain_mixer
from reference import import_timm
from torch import nn

from mlp_backbones.checkpoints import KEY_MAPS, load_weights, recognise
from mlp_backbones.models import PlainGMLP, PlainMLPMixer, PlainResMLP, PlainViT

sizes = dict(dim=st.integers(1, 4), depth=st.integers(1, 3), grid=st.integers(1, 4))


def timm_model(kind, dim, depth, grid):
    """A small timm model of random weights, native at patches of 4."""
    timm = import_timm()
    torch.manual_seed(0)
    shared = dict(img_size=4 * grid, patch_size=4, embed_dim=2 * dim, num_classes=3)
    mixer = timm.models.mlp_mixer
    if kind == 'ViT':
        model = timm.models.VisionTransformer(**shared, depth=depth, num_heads=1)
    else:
        blocks = dict(
            MLPMixer={},
            ResMLP=dict(block_layer=mixer.ResBlock, norm_layer=mixer.Affine, mlp_ratio=4),
            GMLP=dict(
                block_layer=mixer.SpatialGatingBlock,
                mlp_layer=timm.layers.GatedMlp,
                mlp_ratio=6,
            ),
        )
        model = timm.models.MlpMixer(**shared, num_blocks=depth, **blocks[kind])
    with torch.no_grad():
        [param.copy_(torch.randn_like(param)) for param in model.parameters()]
    return model.state_dict()


def our_model(cls, dim, depth, grid):
    arch = dict(embed_dims=2 * dim, num_layers=depth, patch_size=4)
    if cls is PlainViT:
        arch.update(num_heads=1, cls_token=True, pos_embed=True)
    return cls(arch, pretrain_img_size=4 * grid)


def tensors(arrays):
    return {key: torch.from_numpy(value) for key, value in arrays.items()}


LAYOUTS = {
    'timm GMLP': (PlainGMLP, 'timm', lambda state: state),
    'timm MLPMixer': (PlainMLPMixer, 'timm', lambda state: state),
    'timm ResMLP': (PlainResMLP, 'timm', lambda state: state),
    'timm ViT': (PlainViT, 'timm or facebookresearch', lambda state: state),
    'facebookresearch ResMLP': (PlainResMLP, 'facebookresearch', facebook_resmlp),
    'google MLPMixer': (PlainMLPMixer, 'google', lambda state: tensors(google_mixer(state))),
    'mmpretrain MLPMixer': (PlainMLPMixer, 'mmpretrain', mmpretrain_mixer),
}
every_layout = pytest.mark.parametrize('layout', LAYOUTS)


def foreign_names(key_map, state):
    """Our weights by their names: the key map read from right to left."""
    names = {}
    for theirs, ours in key_map.names.items():
        for i in range(3):
            names[ours.replace('*', str(i), 1)] = theirs.replace('*', str(i), 1)
    result = {}
    for name, value in state.items():
        module, _, leaf = name.rpartition('.')
        if name in names:
            result[names[name]] = value
        else:
            result[f'{names[module]}.{leaf}'] = value
    return result


@every_layout
@settings(max_examples=8)
@given(**sizes)
def test_every_weight_arrives_whatever_the_names(layout, dim, depth, grid):
    cls, source, rename = LAYOUTS[layout]
    kind = layout.split()[1]
    original = timm_model(kind, dim, depth, grid)
    ours = our_model(cls, dim, depth, grid)
    report = load_weights(ours, rename(original))
    assert report.source == source
    assert sorted(report.used) == sorted(ours.state_dict()) and not report.resized
    assert len(sum(report.left_out.values(), [])) == 2  # the classifier

    again = foreign_names(recognise(original), ours.state_dict())
    body = {key: value for key, value in original.items() if not key.startswith('head')}
    assert again.keys() == body.keys()
    for key, value in body.items():
        assert torch.equal(again[key].reshape(value.shape), value), key


@settings(max_examples=8)
@given(**sizes)
def test_facebooks_names_are_those_that_timm_reads(dim, depth, grid):
    original = timm_model('ResMLP', dim, depth, grid)
    back = import_timm().models.mlp_mixer.checkpoint_filter_fn(facebook_resmlp(original), None)
    assert back.keys() == original.keys()
    assert all(torch.equal(back[key], original[key]) for key in original)
    # and ours -> facebookresearch's -> ours
    model, other = (our_model(PlainResMLP, dim, depth, grid) for _ in range(2))
    (key_map,) = (m for m in KEY_MAPS if m.source == 'facebookresearch')
    load_weights(other, foreign_names(key_map, model.state_dict()))
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def flax_mixer(arrays, x, patch):
    """MlpMixer.__call__ of google-research/vision_transformer in numpy, up to the head; with
    the exact GELU, as timm and we have it.
    """

    def dense(name, x):
        return x @ arrays[f'{name}/kernel'] + arrays[f'{name}/bias']

    def layer_norm(name, x):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
        return x * arrays[f'{name}/scale'] + arrays[f'{name}/bias']

    def mlp(name, x):
        y = nn.functional.gelu(torch.from_numpy(dense(f'{name}/Dense_0', x))).numpy()
        return dense(f'{name}/Dense_1', y)

    n, h, w, c = x.shape
    patches = x.reshape(n, h // patch, patch, w // patch, patch, c)
    x = np.einsum('nhpwqc,pqcd->nhwd', patches, arrays['stem/kernel']) + arrays['stem/bias']
    x = x.reshape(n, -1, x.shape[-1])
    for i in range(sum(key.endswith('token_mixing/Dense_0/bias') for key in arrays)):
        block = f'MixerBlock_{i}'
        y = layer_norm(f'{block}/LayerNorm_0', x).swapaxes(1, 2)
        x = x + mlp(f'{block}/token_mixing', y).swapaxes(1, 2)
        x = x + mlp(f'{block}/channel_mixing', layer_norm(f'{block}/LayerNorm_1', x))
    return layer_norm('pre_head_layer_norm', x)


def test_googles_weights_give_what_google_computes(tmp_path):
    arrays = google_mixer(timm_model('MLPMixer', 3, 2, 4))
    np.savez(tmp_path / 'Mixer.npz', **arrays)
    model = our_model(PlainMLPMixer, 3, 2, 4).eval()
    model.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'Mixer.npz'))
    model.init_weights()
    image = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    expected = flax_mixer(arrays, image, patch=4)
    with torch.no_grad():
        (out,) = model(torch.from_numpy(image).permute(0, 3, 1, 2))
    torch.testing.assert_close(out.flatten(2).mT.numpy(), expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=8)
@given(**sizes)
def test_ours_to_googles_and_back(dim, depth, grid):
    model, other = (our_model(PlainMLPMixer, dim, depth, grid) for _ in range(2))
    timm_map = next(m for m in KEY_MAPS if (m.source, m.family) == ('timm', 'PlainMLPMixer'))
    load_weights(other, tensors(google_mixer(foreign_names(timm_map, model.state_dict()))))
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize('key_map', KEY_MAPS, ids=lambda m: f'{m.source} {m.family}')
def test_maps_do_not_map_two_names_to_one(key_map):
    ours = list(key_map.names.values())
    assert len(set(ours)) == len(ours)
    assert all(ours.count('*') == theirs.count('*') for theirs, ours in key_map.names.items())
    keys = [name.replace('*', '7') for name in key_map.names]
    state, left_out, unknown = key_map.translate_all(dict.fromkeys(keys, torch.zeros(2)))
    assert sorted(state) == sorted(name.replace('*', '7') for name in ours)
    assert not left_out and not unknown
    keys = [f'{key}.weight' for key in keys]
    assert [m for m in KEY_MAPS if m.tells(keys)] == [key_map] == [recognise(keys)]
