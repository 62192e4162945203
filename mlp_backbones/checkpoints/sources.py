"""Where weights come from: the prefix of their names, and whose names they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from .descriptions import describe, describe_model
from .files import INFIXES, CheckpointError, some
from .key_maps import KEY_MAPS, OUR_MAPS, OURS, KeyMap

if TYPE_CHECKING:
    from ..models.backbones.base import Backbone

# The layer on pixels, of any stem.
OUR_STEMS = {'patch_embed.proj', 'patch_embed.step1.conv', 'patch_embed.steps.0.conv'}


def select_prefix(
    weights: Mapping[str, Tensor], prefix: str | None
) -> tuple[dict[str, Tensor], list[str], str]:
    """The weights below ``prefix``, without it, the names of the others, and the prefix."""
    if prefix is None:
        prefix = find_prefix(weights)
    elif all(key.startswith('module.') for key in weights):  # of DistributedDataParallel
        weights = {key.removeprefix('module.'): value for key, value in weights.items()}
    prefix = INFIXES.sub('', prefix.rstrip('.') + '.') if prefix else ''
    inside = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    if not inside:
        raise CheckpointError(
            f'no weight has a name that starts with prefix={prefix!r}; there are '
            f'{some(list(weights))}.'
        )
    return inside, [key for key in weights if not key.startswith(prefix)], prefix


def find_prefix(names: Iterable[str]) -> str:
    """The prefix of the patch embedding's name, such as ``backbone.`` or ``model.backbone.``.

    Of several the one of a teacher or an average (ema) wins, then the first in the file.
    """
    stems = {theirs for m in KEY_MAPS for theirs, ours in m.names.items() if ours in OUR_STEMS}
    stems = sorted(map(re.escape, stems | OUR_STEMS), key=len, reverse=True)
    pattern = re.compile(rf'((?:\w+\.)*)(?:{"|".join(stems)})[./](?:weight|kernel)')
    found = [match[1] for match in map(pattern.fullmatch, names) if match]
    found.sort(key=lambda prefix: not re.search('ema|teacher', prefix))
    return found[0] if found else ''


def recognise(weights: Iterable[str], model: Backbone | None = None) -> KeyMap | None:
    """The key map whose names ``weights`` have, if any; the own names of ``model`` win."""
    names = starred(weights)
    blocks = {name for name in names if '*' in name}
    if model is not None:
        own = starred(model.state_dict())
        own_map = KeyMap(OURS, type(model).__name__)
        if names & own and blocks <= own:
            return own_map
    for key_map in KEY_MAPS + OUR_MAPS:
        if key_map.tells(weights):
            return key_map
    # a class of somebody else, with names that are nobody's beside
    return own_map if model is not None and blocks & own else None


def starred(names: Iterable[str]) -> set[str]:
    """Names with ``*`` for the numbers of layers."""
    return {re.sub(r'(?<=\.)\d+(?=\.)', '*', name) for name in names}


def check_family(model: Backbone, key_map: KeyMap, weights: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless ``key_map`` gives the names of parameters of ``model``."""
    if key_map.family not in {cls.__name__ for cls in type(model).__mro__}:
        found = describe(key_map.family, key_map.translate_all(weights)[0])
        raise CheckpointError(
            f'this is a {found} checkpoint ({key_map.source}); the backbone is '
            f'{describe_model(model)}.'
        )


def unknown_source(weights: Mapping[str, Tensor]) -> str:
    known = sorted({f'{m.family.removeprefix("Plain")} of {m.source}' for m in KEY_MAPS})
    return (
        f'its weights have names that match no known source: {some(list(weights))}. '
        f'Known sources are {", ".join(known)}, and every backbone of {OURS}.'
    )
