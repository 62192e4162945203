"""From a checkpoint of any known source to the parameters of a backbone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..registry import MODELS
from .files import INFIXES, CheckpointError, read_weights, refuse_not_finite, some, wrong_shape
from .key_maps import KEY_MAPS, KeyMap

if TYPE_CHECKING:
    from ..models.backbones.base import Backbone

OURS = 'mlp_backbones'
OUR_STEM = 'patch_embed.proj'


@dataclass
class Report:
    """What became of a checkpoint's weights.

    Args:
        source: Whose names they had, such as 'timm'.
        checkpoint: The model in the checkpoint, such as 'ResMLP-S24'.
        backbone: The model that took them.
        prefix: What their names started with.
        used: Our names of the weights that were loaded.
        resized: Our names of those that were resized -> sides of the old and the new grid.
        left_out: What was not loaded -> its names in the checkpoint.
        notes: What else was done with some of them.
    """

    source: str
    checkpoint: str
    backbone: str
    prefix: str = ''
    used: list[str] = field(default_factory=list)
    resized: dict[str, tuple[int, int]] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        grids = Counter(self.resized.values())
        return '\n'.join(
            [
                f'source    {self.checkpoint} ({self.source}){self._below}',
                f'backbone  {self.backbone}',
                f'used      {len(self.used)} weights',
                *(
                    f'resized   {count} of them, from a grid of {old} x {old} to {new} x {new}'
                    for (old, new), count in grids.items()
                ),
                *(f'changed   {text}' for text in self.notes),
                *(
                    f'left out  {len(names)} ({what}): {some(names)}'
                    for what, names in self.left_out.items()
                ),
                'missing   none',
            ]
        )

    @property
    def _below(self) -> str:
        return f' below {self.prefix}' if self.prefix else ''

    @property
    def summary(self) -> str:
        """One line for a log."""
        grids = ', '.join(f'{a} x {a} to {b} x {b}' for a, b in sorted(set(self.resized.values())))
        resized = f', {len(self.resized)} of them resized from a grid of {grids}' if grids else ''
        left_out = sum(map(len, self.left_out.values()))
        return (
            f'{len(self.used)} weights of {self.checkpoint} ({self.source}){self._below} loaded'
            f'{resized}{"".join(f", {text}" for text in self.notes)}; '
            f'{left_out} left out'
        )


def load_pretrained(
    model: Backbone, address: str, prefix: str | None = None, assign: bool = False
) -> Report:
    """Load a checkpoint of any known source into ``model``, all of it or none.

    Args:
        model: The backbone.
        address: Path or address of the checkpoint.
        prefix: What the names of the backbone's weights start with in the checkpoint.
            Default: ``backbone.`` if any does, else nothing.
        assign: Whether the loaded tensors become the parameters, as a model on the meta
            device needs it.

    Raises:
        OSError, ImportError: see :func:`read_weights`.
        CheckpointError: if it is no checkpoint, or not one of this model.
    """
    weights = read_weights(address)
    try:
        return load_weights(model, weights, prefix, assign)
    except CheckpointError as error:
        raise CheckpointError(f'{address}: {error}') from error


def load_weights(
    model: Backbone,
    weights: Mapping[str, Tensor],
    prefix: str | None = None,
    assign: bool = False,
) -> Report:
    """Load weights with the names of any known source, see :func:`load_pretrained`."""
    weights, outside, prefix = select_prefix(weights, prefix)
    rename_earlier(model, weights)
    key_map = recognise(weights, model)
    check_family(model, key_map, weights)
    state, left_out, unknown = translate(key_map, weights)
    report = Report(
        key_map.source,
        describe(key_map.family, state),
        describe_model(model),
        prefix,
        left_out=left_out,
    )
    who = f'this is a {report.checkpoint} checkpoint ({report.source}); the backbone is '
    who += report.backbone
    if outside:
        left_out['not of the backbone'] = outside

    own = model.state_dict()
    drop_prefix_tokens(model, state, left_out)
    for name in [name for name in state if name not in own]:
        if model.is_unbuilt(name):
            left_out.setdefault('for no output', []).append(name)
            del state[name]
        else:
            unknown.append(name)
    if note := adapt_bands(model, state):
        report.notes.append(note)
    try:
        check_shapes(model, state)
        if unknown:
            raise CheckpointError(
                f'the checkpoint has {len(unknown)} weights that the model has no place for, '
                f'among them {some(unknown)}.'
            )
        check_complete(model, state)
    except CheckpointError as error:
        raise CheckpointError(f'{who}: {error}') from error

    of_grid = grid_weights(model)
    for name, value in state.items():
        if value.shape != own[name].shape:
            module, name_there = of_grid[name]
            report.resized[name] = tuple(
                module.grid_of(name_there, x.shape) for x in (value, own[name])
            )
    refuse_not_finite(state, who)
    report.used = list(state)
    state = {name: value.to(own[name].dtype) for name, value in state.items()}
    model.load_state_dict(state, assign=assign)
    return report


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
    state, left_out, unknown = translate(key_map, given)
    drop_prefix_tokens(model, state, left_out)
    for key in given.keys() - set(unknown):
        del state_dict[prefix + key]
    state_dict.update({prefix + name: value for name, value in state.items()})


def rename_earlier(model: Backbone, weights: dict[str, Tensor], prefix: str = '') -> None:
    """Give weights that have earlier names of ours those of today, in place.

    Once a resolution adapter was no module around its mixer f, and LayerScale none of its own.
    """
    for name in model.state_dict():
        earlier = name.replace('.f.', '.').removesuffix('.gamma')
        if prefix + earlier in weights and earlier != name:
            weights[prefix + name] = weights.pop(prefix + earlier)


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


def guess_backbone(weights: Mapping[str, Tensor], prefix: str | None = None) -> Backbone:
    """The model that a checkpoint was made with, on the meta device.

    Raises:
        CheckpointError: if its source is unknown, or it has the sizes of no preset.
    """
    weights, _, _ = select_prefix(weights, prefix)
    key_map = recognise(weights)
    if key_map is None:
        raise CheckpointError(unknown_source(weights))
    state, _, _ = translate(key_map, weights)
    preset = find_preset(key_map.family, sizes(state))
    if preset is None:
        raise CheckpointError(
            f'this is a {describe(key_map.family, state)} checkpoint ({key_map.source}), which '
            'are the sizes of no preset; say which backbone it is for.'
        )
    cls = MODELS.get(key_map.family)
    with torch.device('meta'):
        model = cls(preset)
        old, new = (_any_grid(model, x) for x in (state, model.state_dict()))
        return cls(preset, pretrain_img_size=224 * old // new) if old and new else model


def _any_grid(model: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Side of the first grid that a weight in ``state`` belongs to."""
    for name, (module, name_there) in grid_weights(model).items():
        if name in state:
            return module.grid_of(name_there, state[name].shape)
    return None


# --- recognition ------------------------------------------------------------------------------


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
    """What stands before the name of the patch embedding, ``backbone.`` or ``model.backbone.``.

    Of several the one of a teacher or an average (ema) wins, then the first in the file.
    """
    stems = {theirs for m in KEY_MAPS for theirs, ours in m.names.items() if ours == OUR_STEM}
    stems = sorted(map(re.escape, stems | {OUR_STEM}), key=len, reverse=True)
    pattern = re.compile(rf'((?:\w+\.)*)(?:{"|".join(stems)})[./](?:weight|kernel)')
    found = [match[1] for match in map(pattern.fullmatch, names) if match]
    found.sort(key=lambda prefix: not re.search('ema|teacher', prefix))
    return found[0] if found else ''


def recognise(weights: Iterable[str], model: Backbone | None = None) -> KeyMap | None:
    """The key map whose names ``weights`` have, if any."""
    for key_map in KEY_MAPS:
        if key_map.tells(weights):
            return key_map
    names, candidates = starred(weights), []
    if model is not None:
        own = starred(model.state_dict())
        if getattr(model, 'takes_class_token', False):
            own |= {'cls_token'}  # which a model without one leaves out
        candidates = [own_key_map(type(model).__name__, own)]
        if names <= own:
            return candidates[0]
    # one of ours: the one with most of these names and fewest others, if a name of a block is
    best = max(
        candidates + own_key_maps(),
        key=lambda m: len(names & m.names.keys()) / len(names | m.names.keys()),
    )
    return best if any('*' in name for name in names & best.names.keys()) else None


def starred(names: Iterable[str]) -> frozenset[str]:
    """Names with ``*`` for the numbers of layers."""
    return frozenset(re.sub(r'(?<=\.)\d+(?=\.)', '*', name) for name in names)


@lru_cache
def own_key_map(family: str, names: frozenset[str]) -> KeyMap:
    return KeyMap(OURS, family, '', {name: name for name in sorted(names)}, left_out={})


@lru_cache
def own_key_maps() -> list[KeyMap]:
    """Our own names: of every class and preset."""
    kinds = set()
    for family, cls in MODELS.module_dict.items():
        for preset in getattr(cls, 'presets', {}).values():
            # one layer has the names of all
            few = dict(num_layers=1) if 'num_layers' in preset else dict(depths=(1, 1, 1, 1))
            with torch.device('meta'):
                kinds.add((family, starred(cls({**preset, **few}).state_dict())))
    return [own_key_map(*kind) for kind in kinds]


def check_family(model: Backbone, key_map: KeyMap | None, weights: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless ``key_map`` gives the names of parameters of ``model``."""
    if key_map is None:
        raise CheckpointError(unknown_source(weights))
    if key_map.family not in {cls.__name__ for cls in type(model).__mro__}:
        found = describe(key_map.family, translate(key_map, weights)[0])
        raise CheckpointError(
            f'this is a {found} checkpoint ({key_map.source}); the backbone is '
            f'{describe_model(model)}.'
        )


def unknown_source(weights: Mapping[str, Tensor]) -> str:
    known = sorted({f'{m.family.removeprefix("Plain")} of {m.source}' for m in KEY_MAPS})
    return (
        f'its weights have the names of no source that is known here: {some(list(weights))}. '
        f'Known are {", ".join(known)}, and every backbone of {OURS}.'
    )


# --- translation ------------------------------------------------------------------------------


def translate(
    key_map: KeyMap, weights: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, list[str]], list[str]]:
    """Weights by our names and in our layout, what is left out by its kind, and the names
    that the map does not know.
    """
    state, left_out, unknown = {}, {}, []
    for key, value in weights.items():
        name = key_map.find(key)
        if name is None:
            unknown.append(key)
        elif name in key_map.left_out:
            left_out.setdefault(key_map.left_out[name], []).append(key)
        else:
            ours, value = key_map.translate(key, value)
            state[ours] = value
    return state, left_out, unknown


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


# --- checks -----------------------------------------------------------------------------------


def grid_weights(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """The weights of ``model`` that belong to a grid: our name -> its module and its name there.

    The modules resize them when they are loaded (layers/grid_weights.py).
    """
    return {
        f'{path}.{name}': (module, name)
        for path, module in model.named_modules()
        if hasattr(module, 'token_axes')
        for name in module.token_axes()
    }


def check_shapes(model: nn.Module, state: Mapping[str, Tensor], prefix: str = '') -> None:
    """Raise CheckpointError if a weight in ``state`` has another shape than in ``model`` and is
    not one that can be resized from grid to grid, or if it is no floating-point number.

    Loaders that are not strict only log such a weight and leave the parameter random.
    """
    of_grid = grid_weights(model)
    for name, param in model.state_dict().items():
        value = state.get(prefix + name)
        if value is None:
            continue
        if not value.is_floating_point():
            raise CheckpointError(f'{prefix}{name} holds {value.dtype}, which are no weights.')
        if value.shape != param.shape:
            module, own = of_grid.get(name, (None, None))
            if module is None or module.grid_of(own, value.shape) is None:
                raise wrong_shape(prefix + name, value, param, module is not None)


def check_complete(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless ``state`` has all of the weights of ``model``."""
    missing = missing_weights(model, state)
    if len(missing) == len(model.state_dict()):
        raise CheckpointError(
            f'the checkpoint holds another backbone than {type(model).__name__}: '
            f'{some(list(state))}. To keep only its neck and heads, leave the weights of the '
            'backbone out of the file.'
        )
    if missing:
        raise CheckpointError(
            f'the checkpoint lacks {len(missing)} of the {len(model.state_dict())} weights of '
            f'{type(model).__name__}, among them {some(missing)}.'
        )


def missing_weights(model: nn.Module, state: Mapping[str, Tensor], prefix: str = '') -> list[str]:
    """Our names of the weights of ``model`` that ``state`` has not."""
    return [name for name in model.state_dict() if prefix + name not in state]


# --- descriptions -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """What tells the presets of a family apart."""

    width: int
    depths: tuple[int, ...]
    patch_size: int


def sizes(state: Mapping[str, Tensor]) -> Sizes | None:
    """The sizes of the model with these weights, by our names; None if they do not say."""
    patches = state.get('patch_embed.proj.weight')
    if patches is None or patches.dim() != 4:
        return None
    depths = {}
    for name in state:
        if match := re.match(r'(?:layers|stages\.(\d+))\.(\d+)\.', name):
            stage, layer = int(match[1] or 0), int(match[2])
            depths[stage] = max(depths.get(stage, 0), layer + 1)
    return Sizes(len(patches), tuple(depths[i] for i in sorted(depths)), patches.shape[-1])


def find_preset(
    family: str, found: Sizes | None, presets: Mapping[str, dict] | None = None
) -> str | None:
    """The preset of ``family`` with these sizes; stages after the last may lack."""
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
        else (f'{family} {preset}')
    )


def describe_model(model: Backbone) -> str:
    """Name of a backbone, such as 'PlainGMLP s16'."""
    found = sizes(model.state_dict())
    if hasattr(model, 'num_layers'):  # also those that no output needs
        found = replace(found, depths=(model.num_layers,))
    family = type(model).__name__
    preset = find_preset(family, found, model.presets)
    return f'{family} {preset}' if preset else family + _sizes_in_words(found)


def _sizes_in_words(found: Sizes | None) -> str:
    if found is None:
        return ''
    layers = ' + '.join(map(str, found.depths))
    return f' (width {found.width}, {layers} layers, patch {found.patch_size})'
