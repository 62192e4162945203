"""The published layouts, made from timm's by the documented rules.

Written apart from the key maps, which they test.
"""

import re

import numpy as np

RESMLP = (
    ('stem.', 'patch_embed.'),
    ('linear_tokens', 'attn'),
    ('mlp_channels', 'mlp'),
    ('ls1', 'gamma_1'),
    ('ls2', 'gamma_2'),
)


def facebook_resmlp(state):
    """facebookresearch/deit, resmlp_models.py; what timm's checkpoint_filter_fn undoes."""
    renamed = {}
    for key, value in state.items():
        for timm, facebook in RESMLP:
            key = key.replace(timm, facebook)
        renamed[key] = value.flatten() if key.endswith(('alpha', 'beta')) else value
    return renamed


def mmpretrain_mixer(state):
    """tools/model_converters/mlpmixer_to_mmpretrain.py of mmpretrain 1.2."""
    names = {
        'stem': 'patch_embed',
        'proj': 'projection',
        'mlp_tokens.fc1': 'token_mix.layers.0.0',
        'mlp_tokens.fc2': 'token_mix.layers.1',
        'mlp_channels.fc1': 'channel_mix.layers.0.0',
        'mlp_channels.fc2': 'channel_mix.layers.1',
        'norm1': 'ln1',
        'norm2': 'ln2',
        'norm.': 'ln1.',
        'blocks': 'layers',
    }
    renamed = {}
    for key, value in state.items():
        for timm, theirs in names.items():
            key = key.replace(timm, theirs)
        name = 'head.fc.' + key[5:] if key.startswith('head.') else 'backbone.' + key
        renamed[name] = value
    return renamed


FLAX = (
    ('stem.proj', 'stem'),
    ('blocks.', 'MixerBlock_'),
    ('norm1', 'LayerNorm_0'),
    ('norm2', 'LayerNorm_1'),
    ('mlp_tokens', 'token_mixing'),
    ('mlp_channels', 'channel_mixing'),
    ('fc1', 'Dense_0'),
    ('fc2', 'Dense_1'),
)


def google_mixer(state):
    """google-research/vision_transformer, models_mixer.py: flax names, and kernels whose
    outputs are the last axis, (h, w, in, out) and (in, out).
    """
    arrays = {}
    for key, value in state.items():
        value = value.numpy()
        key = re.sub('^norm', 'pre_head_layer_norm', key)
        is_norm = 'norm' in key
        for timm, flax in FLAX:
            key = key.replace(timm, flax)
        if key.endswith('.weight'):
            key = key.removesuffix('weight') + ('scale' if is_norm else 'kernel')
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        arrays[key.replace('.', '/')] = np.ascontiguousarray(value)
    return arrays
