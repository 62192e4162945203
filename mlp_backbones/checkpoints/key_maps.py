"""How other projects name the parameters of the plain models.

One map per source and family: (pattern, replacement) pairs for ``re.sub``, applied in
turn to every key.
"""

from __future__ import annotations

import re

from torch import Tensor

_STEM = [(r'^stem\.proj', 'patch_embed.proj'), (r'^blocks\.', 'layers.')]
_MLP = [(r'\.mlp_channels\.', '.mlp.')]

KEY_MAPS: dict[str, dict[str, list[tuple[str, str]]]] = {
    # timm/models/mlp_mixer.py and vision_transformer.py
    'timm': {
        'PlainGMLP': [
            *_STEM,
            (r'\.mlp_channels\.gate\.', '.sgu.'),
            (r'\.mlp_channels\.', '.'),
        ],
        'PlainMLPMixer': [*_STEM, *_MLP, (r'\.mlp_tokens\.', '.mixer.')],
        'PlainResMLP': [*_STEM, *_MLP],
        'PlainViT': [
            *_STEM,
            (r'\.attn\.', '.mixer.'),
            (r'^pos_embed$', 'pos_embed.weight'),
        ],
    },
}


def rename_keys(
    state: dict[str, Tensor], rules: list[tuple[str, str]], drop: str = r'^head(_dist)?\.'
) -> dict[str, Tensor]:
    """Rename the keys of a state dict.

    Args:
        state: Parameters by their foreign names.
        rules: (pattern, replacement) pairs for ``re.sub``.
        drop: Pattern of the keys to leave out, by default those of a classifier.

    Returns:
        A new dict. ResMLP's ``alpha`` and ``beta`` and position embeddings, which timm
        keeps with leading axes of length 1, lose these.
    """
    renamed = {}
    for key, value in state.items():
        if re.search(drop, key):
            continue
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        if key.endswith(('.alpha', '.beta')):  # (1, 1, C)
            value = value.flatten()
        if key == 'pos_embed.weight':  # (1, N, C)
            value = value.flatten(0, -2)
        renamed[key] = value
    return renamed
