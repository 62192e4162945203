"""From the names and the layout of a source to ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .sources import OUR_STEM, check_family, recognise

if TYPE_CHECKING:
    from ..models.backbones.base import Backbone


def translate_state(
    model: Backbone, state_dict: dict[str, Tensor], prefix: str = ''
) -> str | None:
    """Make the weights of ``model`` in a state dict those that it takes, in place: with our
    names, and for as many bands. Returns what was done to their values.

    Raises:
        CheckpointError: if they are those of another family.
    """
    rename_earlier(model, state_dict, prefix)
    rename_foreign(model, state_dict, prefix)
    return adapt_bands(model, state_dict, prefix)


def rename_earlier(model: Backbone, weights: dict[str, Tensor], prefix: str = '') -> None:
    """Give weights that have earlier names of ours those of today, in place.

    Once a resolution adapter was no module around its mixer f, and LayerScale none of its own.
    """
    for name in model.state_dict():
        earlier = name.replace('.f.', '.').removesuffix('.gamma')
        if prefix + earlier in weights and earlier != name:
            weights[prefix + name] = weights.pop(prefix + earlier)


def rename_foreign(model: Backbone, state_dict: dict[str, Tensor], prefix: str) -> None:
    """Give the weights of ``model`` in a state dict our names, in place, if they have the
    names of another source. For the load-state-dict hook.

    Raises:
        CheckpointError: if they are those of another family.
    """
    given = {key[len(prefix) :]: v for key, v in state_dict.items() if key.startswith(prefix)}
    own = model.state_dict()
    surplus = 'cls_token' in given and 'cls_token' not in own
    if not given or (all(name in given for name in own) and not surplus):
        return  # ours, the usual case
    key_map = recognise(given, model)
    if key_map is None:
        return
    check_family(model, key_map, given)
    state, left_out, unknown = key_map.translate_all(given)
    drop_prefix_tokens(model, state, left_out)
    for key in given.keys() - set(unknown):
        del state_dict[prefix + key]
    state_dict.update({prefix + name: value for name, value in state.items()})


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


def adapt_bands(model: Backbone, weights: dict[str, Tensor], prefix: str = '') -> str | None:
    """Make the patch embedding of RGB images, in place, one of as many bands as ``model`` takes.

    As timm does: one band gets the sum of the three, more bands repeat them, scaled so that the
    response to equal bands stays. Returns what was done.
    """
    name, bands = f'{prefix}{OUR_STEM}.weight', model.in_channels
    weight = weights.get(name)
    if weight is None or bands == 3 or weight.dim() != 4 or weight.shape[1] != 3:
        return None
    if bands == 1:
        weights[name] = weight.sum(1, keepdim=True)
    else:
        weights[name] = weight.repeat(1, -(-bands // 3), 1, 1)[:, :bands] * (3 / bands)
    return f'{name} of 3 bands {"summed up to 1" if bands == 1 else f"repeated for {bands}"}'
