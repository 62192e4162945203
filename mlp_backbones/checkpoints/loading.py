"""From a checkpoint of any known source to the parameters of a backbone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..registry import MODELS
from .checks import check_complete, check_shapes, grid_weights
from .descriptions import describe, describe_model, find_preset, sizes
from .files import CheckpointError, read_weights, refuse_not_finite, some
from .sources import recognise, select_prefix, unknown_source
from .translation import translate

if TYPE_CHECKING:
    from ..models.backbones.base import Backbone


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
        fresh: Our names of output norms that the checkpoint lacks; they start as in training.
        notes: What else was done with some of them.
    """

    source: str
    checkpoint: str
    backbone: str
    prefix: str = ''
    used: list[str] = field(default_factory=list)
    resized: dict[str, tuple[int, int]] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)
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
                f'missing   {len(self.fresh)} (norms of outputs, fresh): {some(self.fresh)}'
                if self.fresh
                else 'missing   none',
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
        fresh = f'; {len(self.fresh)} of output norms fresh' if self.fresh else ''
        return (
            f'{len(self.used)} weights of {self.checkpoint} ({self.source}){self._below} loaded'
            f'{resized}{"".join(f", {text}" for text in self.notes)}; '
            f'{left_out} left out{fresh}'
        )


def load_pretrained(
    model: Backbone, address: str, prefix: str | None = None, assign: bool = False
) -> Report:
    """Load a checkpoint of any known source into ``model``, all of it or none.

    Args:
        model: The backbone.
        address: Path or address of the checkpoint.
        prefix: What the names of the backbone's weights start with in the checkpoint.
            Default: it is found, see :func:`find_prefix`.
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
    state, report = fit_weights(model, weights, prefix)
    model.load_state_dict(state, assign=assign)
    return report


def fit_weights(
    model: Backbone, weights: Mapping[str, Tensor], prefix: str | None = None
) -> tuple[dict[str, Tensor], Report]:
    """The weights that ``model`` takes of those with the names of any known source, and what
    becomes of the others.

    Raises:
        CheckpointError: if they are not those of this model.
    """
    weights, outside, prefix = select_prefix(weights, prefix)
    translation = translate(model, weights)
    if translation is None:
        raise CheckpointError(unknown_source(weights))
    state, left_out, unknown = translation.state, translation.left_out, translation.unknown
    report = Report(
        translation.key_map.source,
        describe(translation.key_map.family, state),
        describe_model(model),
        prefix,
        left_out=left_out,
        notes=translation.notes,
    )
    who = f'this is a {report.checkpoint} checkpoint ({report.source}); the backbone is '
    who += report.backbone
    if outside:
        left_out['not of the backbone'] = outside

    own = model.state_dict()
    for name in [name for name in state if name not in own]:
        if model.is_unbuilt(name):
            left_out.setdefault('for no output', []).append(name)
            del state[name]
        else:
            unknown.append(name)
    try:
        check_shapes(model, state)
        if unknown:
            raise CheckpointError(
                f'the model has no place for {len(unknown)} weights of the checkpoint, such as '
                f'{some(unknown)}.'
            )
        fresh = {
            k: v
            for group in model.optional_weights()
            if not group.keys() & state.keys()
            for k, v in group.items()
        }
        state |= fresh
        report.fresh = list(fresh)
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
    report.used = [name for name in state if name not in report.fresh]
    state = {name: value.to(own[name].dtype) for name, value in state.items()}
    return state, report


def guess_backbone(weights: Mapping[str, Tensor], prefix: str | None = None) -> Backbone:
    """The model that a checkpoint was made with, on the meta device.

    Raises:
        CheckpointError: if its source is unknown, or it has the sizes of no preset.
    """
    weights, _, _ = select_prefix(weights, prefix)
    key_map = recognise(weights)
    if key_map is None:
        raise CheckpointError(unknown_source(weights))
    state, _, _ = key_map.translate_all(weights)
    found = sizes(state)
    preset = find_preset(key_map.family, found)
    if preset is None:
        raise CheckpointError(
            f'this is a {describe(key_map.family, state)} checkpoint ({key_map.source}); no '
            'preset has these sizes, so say which backbone it is for.'
        )
    cls = MODELS.get(key_map.family)
    settings = dict(stem=found.stem) if hasattr(cls, 'stems') else {}
    with torch.device('meta'):
        model = cls(preset, **settings)
        old, new = (_any_grid(model, x) for x in (state, model.state_dict()))
        if old and new:
            settings['pretrain_img_size'] = 224 * old // new
        return cls(preset, **settings)


def _any_grid(model: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Side of the first grid that a weight in ``state`` belongs to."""
    for name, (module, name_there) in grid_weights(model).items():
        if name in state:
            return module.grid_of(name_there, state[name].shape)
    return None
