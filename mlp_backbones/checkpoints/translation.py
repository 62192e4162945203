"""From the names and the layout of a source to ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .key_maps import KeyMap
from .sources import OUR_STEMS, check_family, recognise

if TYPE_CHECKING:
    from ..models.backbones.base import Backbone


@dataclass
class Translation:
    """Weights of a model by our names.

    Args:
        key_map: Whose names they had.
        state: The weights by ours.
        left_out: What the model has no place for -> its names in the checkpoint.
        unknown: Names that the source does not have.
        notes: What was done to values.
    """

    key_map: KeyMap
    state: dict[str, Tensor]
    left_out: dict[str, list[str]]
    unknown: list[str]
    notes: list[str]


def translate(model: Backbone, weights: Mapping[str, Tensor]) -> Translation | None:
    """``weights`` with our names and for as many bands as ``model`` has; None if their source is
    unknown.

    Raises:
        CheckpointError: if they are those of another family.
    """
    weights = with_todays_names(model, weights)
    key_map = recognise(weights, model)
    if key_map is None:
        return None
    check_family(model, key_map, weights)
    state, left_out, unknown = key_map.translate_all(weights)
    drop_prefix_tokens(model, state, left_out)
    note = adapt_bands(model, state)
    return Translation(key_map, state, left_out, unknown, [note] if note else [])


def translate_in_place(model: Backbone, state_dict: dict[str, Tensor], prefix: str) -> list[str]:
    """:func:`translate` for the weights of ``model`` in the state dict of a whole detector, in
    which the hooks of ``load_state_dict`` meet them. Returns the notes.
    """
    given = {key[len(prefix) :]: v for key, v in state_dict.items() if key.startswith(prefix)}
    translation = translate(model, given) if given else None
    if translation is None:
        return []
    for key in given.keys() - set(translation.unknown):
        del state_dict[prefix + key]
    state_dict.update({prefix + name: value for name, value in translation.state.items()})
    return translation.notes


def with_todays_names(model: Backbone, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` with today's names instead of earlier ones.

    Earlier versions had neither a module around a mixer (``f``) nor one for LayerScale.
    """
    today = {name.replace('.f.', '.').removesuffix('.gamma'): name for name in model.state_dict()}
    return {today.get(name, name): value for name, value in weights.items()}


def drop_prefix_tokens(
    model: Backbone, state: dict[str, Tensor], left_out: dict[str, list[str]]
) -> None:
    """Drop, in place, what ``model`` has no place for: the class token of a model without
    one, and the positions of class and distillation tokens that it does not have.
    """
    embedding, name = getattr(model, 'pos_embed', None), 'pos_embed.weight'
    if embedding is None or name not in state:
        return
    given = ('cls_token' in state) + ('distillation token' in left_out)
    kept = embedding.prefix_tokens
    if given > kept:  # the class token is first
        state[name] = torch.cat([state[name][:kept], state[name][given:]])
        left_out['position of a token'] = [f'pos_embed[{i}]' for i in range(kept, given)]
    if not kept and state.pop('cls_token', None) is not None:
        left_out['class token'] = ['cls_token']


def adapt_bands(model: Backbone, weights: dict[str, Tensor]) -> str | None:
    """Make the stem of RGB images, in place, one of as many bands as ``model`` takes.

    As timm does: one band gets the sum of the three, more bands repeat them, times 3 / bands.
    Returns what was done.
    """
    name = next((f'{stem}.weight' for stem in OUR_STEMS if f'{stem}.weight' in weights), None)
    weight, bands = weights.get(name), model.in_channels
    if weight is None or bands == 3 or weight.dim() != 4 or weight.shape[1] != 3:
        return None
    if bands == 1:
        weights[name] = weight.sum(1, keepdim=True)
    else:
        weights[name] = weight.repeat(1, -(-bands // 3), 1, 1)[:, :bands] * (3 / bands)
    return f'{name} of 3 bands {"summed up to 1" if bands == 1 else f"repeated for {bands}"}'
