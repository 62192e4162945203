"""Whether the parts of a model fit together, before it is built and its data are read."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from mlp_backbones.models.backbones.base import Backbone
from mlp_backbones.registry import MODELS as OURS

HEADS = ('decode_head', 'auxiliary_head')


def check_model(cfg: Config) -> None:
    """Build the backbone, if it is one of ours, without memory for its weights, and compare its
    maps with what the neck or the heads of a segmentor take.

    Raises:
        ValueError: with the setting that is wrong, what it is and what it should be.
    """
    model = cfg.get('model', {})
    backbone = model.get('backbone')
    if not isinstance(backbone, Mapping):
        return
    kind = getattr(backbone.get('type'), '__name__', str(backbone.get('type')))
    scope, _, name = kind.rpartition('.')
    if name not in OURS.module_dict:
        if scope == OURS.scope:
            close = difflib.get_close_matches(name, OURS.module_dict, n=1)
            hint = f' Did you mean {close[0]}?' if close else ''
            raise ValueError(f'model.backbone.type={kind!r} does not exist.{hint}')
        return
    if model.get('pretrained'):  # which mmseg hands on
        backbone = {**backbone, 'pretrained': model['pretrained']}
    try:
        with torch.device('meta'):
            built = MODELS.build(dict(backbone)).eval()
            if not isinstance(built, Backbone):  # somebody else's of that name
                return
            image = torch.zeros(1, built.in_channels, 64, 64)
            channels = [x.shape[1] for x in built(image)]
    except (TypeError, ValueError) as error:
        raise ValueError(f'model.backbone: {_last_line(error)}') from error
    where = f'maps of {channels} channels (out_indices={tuple(built.out_indices)})'
    neck = model.get('neck')
    if neck is None:
        for name in HEADS:
            heads = model.get(name) or []
            for head in heads if isinstance(heads, (list, tuple)) else [heads]:
                _check_head(f'model.{name}', head, channels, where)
    elif isinstance(neck, Mapping):
        taken = neck.get('in_channels')
        if isinstance(taken, int):
            taken = [taken]
        if taken is not None and list(taken) != channels:
            raise ValueError(
                f"model.neck.in_channels={neck['in_channels']} does not fit: the backbone's are "
                f'{where}.'
            )


def _check_head(setting: str, head: Mapping, channels: list[int], where: str) -> None:
    given, index = head.get('in_channels'), head.get('in_index', -1)
    if given is None:
        return
    indices = [index] if isinstance(index, int) else list(index)
    if max(indices) >= len(channels):
        raise ValueError(f"{setting}.in_index={index} is beyond the backbone's {where}.")
    wanted = [channels[i] for i in indices]
    if ([given] if isinstance(given, int) else list(given)) != wanted:
        raise ValueError(
            f'{setting}.in_channels={given} does not fit: its in_index={index} takes {wanted} of '
            f"the backbone's {where}."
        )


def _last_line(error: Exception) -> str:
    """mmengine puts a class, a path and the text into one message."""
    return str(error).strip('"\'').splitlines()[-1]
