"""Which model weights are those of, in words: 'ResMLP-S24'."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torch import Tensor

from ..registry import MODELS

if TYPE_CHECKING:
    from ..models.backbones.base import Backbone


@dataclass(frozen=True)
class Sizes:
    """What tells the presets of a family apart."""

    width: int
    depths: tuple[int, ...]
    patch_size: int
    stem: str = field(default='patch', compare=False)


# The layer that makes tokens, of each kind of stem.
STEMS = {
    'patch_embed.proj.weight': 'patch',
    'patch_embed.step2.conv.weight': 'conv',
    'patch_embed.steps.2.conv.weight': 'tokenizer',
}


def sizes(state: Mapping[str, Tensor]) -> Sizes | None:
    """The sizes of the model with these weights, by our names; None if they do not say."""
    name, stem = next(((n, s) for n, s in STEMS.items() if n in state), (None, None))
    if name is None or state[name].dim() != 4:
        return None
    width, kernel_size = len(state[name]), state[name].shape[-1]
    depths = {}
    for name in state:
        if match := re.match(r'(?:layers|stages\.(\d+))\.(\d+)\.', name):
            stage, layer = int(match[1] or 0), int(match[2])
            depths[stage] = max(depths.get(stage, 0), layer + 1)
    if stem == 'patch' and kernel_size == 7 and len(depths) > 1:
        stem = 'overlap'
    patch_size = kernel_size if stem == 'patch' else 4
    return Sizes(width, tuple(depths[i] for i in sorted(depths)), patch_size, stem)


def find_preset(
    family: str, found: Sizes | None, presets: Mapping[str, dict] | None = None
) -> str | None:
    """The preset of ``family`` with these sizes; stages after the last may be missing."""
    if found is None:
        return None
    if presets is None:  # a class of somebody else may be registered nowhere
        presets = getattr(MODELS.get(family), 'presets', {})
    for name, preset in presets.items():
        if 'embed_dims' in preset:
            wanted = Sizes(preset['embed_dims'], (preset['num_layers'],), preset['patch_size'])
        else:
            depths = tuple(preset['depths'])[: len(found.depths)]
            wanted = Sizes(preset['channels'][0], depths, found.patch_size)
        if found == wanted:
            return name
    return None


def describe(family: str, state: Mapping[str, Tensor]) -> str:
    """Name of the model with these weights, such as 'ResMLP-S24'."""
    found = sizes(state)
    preset = find_preset(family, found)
    if preset is None:
        return family + _sizes_in_words(found)
    return (
        f'{family.removeprefix("Plain")}-{preset.upper()}'
        if 'Plain' in family
        else f'{family} {preset}{_stem_in_words(MODELS.get(family), found)}'
    )


def describe_model(model: Backbone) -> str:
    """Name of a backbone, such as 'PlainGMLP s16'."""
    found = sizes(model.state_dict())
    if hasattr(model, 'num_layers'):  # also those that no output needs
        found = replace(found, depths=(model.num_layers,))
    family = type(model).__name__
    preset = find_preset(family, found, model.presets)
    name = f'{family} {preset}' if preset else family + _sizes_in_words(found)
    return name + _stem_in_words(type(model), found)


def _stem_in_words(cls: type, found: Sizes | None) -> str:
    """The stem of a pyramid, if it is not its family's default."""
    if found is None or getattr(cls, 'default_stem', found.stem) == found.stem:
        return ''
    return f' with stem={found.stem!r}'


def _sizes_in_words(found: Sizes | None) -> str:
    if found is None:
        return ''
    layers = ' + '.join(map(str, found.depths))
    return f' (width {found.width}, {layers} layers, patch {found.patch_size})'
