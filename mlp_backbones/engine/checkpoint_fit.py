"""Whether a checkpoint is there, and is one of the model that is to be trained or tested with it.

mmengine loads what fits, logs the rest in one long message, and goes on with random weights.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mlp_backbones.checkpoints import (
    CheckpointError,
    find_weights,
    fit_weights,
    knows_stand_ins,
    read_checkpoint,
    refuse_not_finite,
    resolve,
    some,
)
from mlp_backbones.checkpoints.safe_loading import load_from_data_only
from mlp_backbones.models.backbones.base import Backbone, is_pretrained
from mlp_backbones.spelling import did_you_mean_file

# A head that only training needs.
AUXILIARY = 'auxiliary_head'


class CheckpointFitHook(Hook):
    """Ends a run with a CheckpointError before a checkpoint that does not fit is loaded.

    Args:
        whole: Whether the model is to be used as it is: every part of it needs weights, of the
            shapes that it has. Otherwise some of it do.
    """

    priority = 'LOWEST'  # after EMAHook, which may swap weights

    def __init__(self, whole: bool):
        self.whole = whole

    def before_run(self, runner: Runner) -> None:
        if self.whole or not knows_stand_ins():
            return
        # a detector's own init_cfg; a backbone's is its own business
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        init_cfg = getattr(model, 'init_cfg', None)
        for cfg in init_cfg if isinstance(init_cfg, list) else [init_cfg]:
            if isinstance(cfg, dict) and is_pretrained(cfg) and not cfg.get('prefix'):
                weights = load_from_data_only(cfg['checkpoint'])['state_dict']
                check_fit(model, weights, whole=False)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        weights = checkpoint.get('state_dict', checkpoint)
        if getattr(runner, '_resume', False) and not self.whole:
            check_same(runner.model, weights)
        else:
            check_fit(runner.model, weights, self.whole)


def check_same(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError if ``weights`` are not those of this very model, which its optimizer
    can go on with: another preset, or another ``pretrain_img_size``.
    """
    if is_model_wrapper(model) and not isinstance(model, DistributedDataParallel):
        return  # FSDP and others, which have other weights than the model's
    own = (model.module if is_model_wrapper(model) else model).state_dict()
    other = [
        f'{name} is {tuple(value.shape)} in the checkpoint, {tuple(own[name].shape)} in the model'
        for name, value in weights.items()
        if name in own and own[name].shape != value.shape
    ]
    other += [f'{name} is only in the checkpoint' for name in weights.keys() - own.keys()]
    other += [f'{name} is only in the model' for name in own.keys() - weights.keys()]
    if other:
        raise CheckpointError(
            f'--resume: the checkpoint was trained with another model: {some(sorted(other))}. '
            'Give the config that it was trained with, or start from its weights: leave out '
            '--resume, and use --cfg-options load_from=FILE.'
        )


def check_fit(model: nn.Module, weights: Mapping[str, Tensor], whole: bool) -> None:
    """Raise CheckpointError if ``weights`` fill nothing of ``model`` or, if they are to be its
    ``whole``, leave out one of its parts or have other shapes.
    """
    while isinstance(model, (BaseTTAModel, DistributedDataParallel)):
        model = model.module
    if is_model_wrapper(model):
        return  # FSDP and others, which have other weights than the model's
    weights = {name.removeprefix('module.'): value for name, value in weights.items()}
    own = model.state_dict()
    fitting = {
        name for name, value in weights.items() if name in own and value.shape == own[name].shape
    }
    parts = {name: part for name, part in model.named_children() if has_weights(part)}
    # a backbone of ours takes other names and other grids too
    filled = {
        name
        for name, part in parts.items()
        if has_part(weights if isinstance(part, Backbone) else fitting, name)
    }
    found = f'it holds {describe(weights)}, the model has {describe(own)}'
    if not filled:
        raise CheckpointError(
            f'the checkpoint has no weights for the model: {found}. Weights of a backbone alone '
            'belong in its init_cfg, see docs/pretrained.md.'
        )
    for name, part in parts.items():
        below = {k.removeprefix(f'{name}.'): w for k, w in weights.items() if has_part([k], name)}
        if below and isinstance(part, Backbone):
            try:
                _, report = fit_weights(part, below, prefix='')
                if whole and report.fresh:
                    raise CheckpointError(f'the checkpoint lacks {some(report.fresh)}.')
            except CheckpointError as error:
                raise CheckpointError(
                    f'{name}: {error} To keep only the rest of the model, leave the weights of '
                    f'its {name} out of the file.'
                ) from error
    if not whole:
        return
    for name in own:
        part = name.partition('.')[0]
        resized = isinstance(parts.get(part), Backbone)
        if name in weights and name not in fitting and not resized and part != AUXILIARY:
            raise CheckpointError(
                f'{name}: the checkpoint has shape {tuple(weights[name].shape)}, the model '
                f'{tuple(own[name].shape)}. Give a checkpoint that was trained with this config.'
            )
    empty = [name for name in parts if name not in filled and name != AUXILIARY]
    if empty:
        raise CheckpointError(
            f'the checkpoint has no weights for {", ".join(empty)}: {found}. Give a checkpoint '
            'that was trained with this config.'
        )


def has_weights(part: nn.Module) -> bool:
    return next(part.parameters(), None) is not None


def has_part(names: Iterable[str], part: str) -> bool:
    return any(name.startswith(f'{part}.') for name in names)


def describe(names: Iterable[str]) -> str:
    """The parts that names of weights belong to: 'backbone, neck, rpn_head'."""
    parts = list(dict.fromkeys(name.partition('.')[0] for name in names))
    return some(parts, 6)


def check_checkpoint(path: str, setting: str, resume: bool = False) -> None:
    """Raise an error if the model (or, to ``resume``, the whole training state) cannot be
    loaded from ``path``, which ``setting`` names.

    Raises:
        FileNotFoundError: there is no such file.
        ConnectionError: the address cannot be reached.
        ImportError: safetensors is not installed.
        CheckpointError: it is no checkpoint, see :func:`read_checkpoint`, or no training state.
    """
    if '://' not in path and not os.path.isfile(path):
        raise FileNotFoundError(
            f'{setting}: there is no checkpoint {path}{did_you_mean_file(path)}'
        )
    if not knows_stand_ins():
        return  # mmengine reads it, see safe_loading
    local_rank = os.environ.get('SLURM_LOCALID') or os.environ.get('LOCAL_RANK') or '0'
    if '://' in path and local_rank != '0':
        return  # the first process of each machine fetches it
    try:
        content = read_checkpoint(resolve(path))
    except (ImportError, OSError, ValueError) as error:
        raise type(error)(f'{setting}: {error}') from error
    needed = {'state_dict', 'meta', 'message_hub', 'optimizer'}
    missing = sorted(needed - content.keys())
    if resume and missing:
        raise CheckpointError(
            f'{setting}: {path} is not a training state: it has no '
            f'{", ".join(missing)}; to start from its weights, use '
            f'--cfg-options load_from={path} instead'
        )
    refuse_not_finite(find_weights(content), f'{setting}: {path}')
