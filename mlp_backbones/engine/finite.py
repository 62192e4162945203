"""Losses and gradients that are no longer finite: noticed before they reach the weights."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Any

import torch
from mmengine.dist import all_reduce, get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ..registry import HOOKS

ACTIONS = ('stop', 'skip')
MOST_SAVED = 10  # batches


class TrainingError(RuntimeError):
    """A training that cannot go on; the message says why, and what to do."""


@HOOKS.register_module()
class FiniteHook(Hook):
    """Keeps NaN and infinity out of the weights.

    The gradients are looked at before each step of the optimizer (with several processes they
    are already the mean, so that all decide alike), and the loss after it. In float16, the loss
    scaler skips steps with infinite gradients itself, as it must; a loss that is not finite
    still counts.

    In a config of mmdet, mmseg or any other code base of OpenMMLab::

        default_hooks = dict(finite=dict(type='mlp_backbones.FiniteHook'))

    Args:
        action: 'stop' ends the run, before the step. 'skip' leaves the step out, restores the
            statistics of batch norm, and logs the number of steps left out. Either way, a
            message names the iteration, the losses and the images, and the batch is saved in
            the work dir. Default: 'stop'.
        max_skipped: With 'skip', the run ends after so many in a row. Default: 20.

    Raises:
        ValueError: for another ``action``.
        TrainingError: while training, see above.
    """

    priority = 'VERY_HIGH'  # before EMA takes the weights in

    def __init__(self, action: str = 'stop', max_skipped: int = 20):
        if action not in ACTIONS:
            raise ValueError(f'action={action!r} must be one of {", ".join(ACTIONS)}')
        self.action = action
        self.max_skipped = max_skipped
        self.losses: dict[str, Tensor] = {}

    def before_train(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self.runner = runner
        self.in_a_row = 0
        # with FSDP, a process sees its own part of the gradients
        self.sharded = model is not runner.model and not isinstance(
            runner.model, DistributedDataParallel
        )
        # in place: they are only read when something is wrong
        self.buffers = [x for x in model.buffers() if x.is_floating_point()]
        self.handles = [model.register_forward_hook(self._keep_losses)]
        wrapper = runner.optim_wrapper
        wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        for optimizer in (getattr(wrapper, 'optimizer', None) for wrapper in wrappers):
            if isinstance(optimizer, Optimizer):
                self.handles.append(optimizer.register_step_pre_hook(self._before_step))

    def after_train(self, runner: Runner) -> None:
        for handle in self.handles:
            handle.remove()
        skipped = runner.message_hub.runtime_info.get('skipped_steps', 0)
        if skipped:
            runner.logger.warning(f'{skipped} of {runner.iter} steps were left out')

    def _keep_losses(self, module: nn.Module, args: Any, outputs: Any) -> None:
        if isinstance(outputs, dict):
            self.losses = outputs

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.batch, self.found = data_batch, False
        if self.action == 'skip':
            self.before = [buffer.clone() for buffer in self.buffers]

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group['params']]
        parameters = [p for p in parameters if p.grad is not None]
        good = finite(p.grad for p in parameters)
        if self.sharded:
            worst = torch.tensor(float(good))
            all_reduce(worst, 'min')
            good = bool(worst)
        if not good:
            self._act('the gradients are', 'The weights were not changed', 'The step is left out')
            for p in parameters:
                p.grad = None  # without one, an optimizer leaves its parameter alone

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        loss = flat(outputs.get('loss')) if isinstance(outputs, dict) else None
        if not self.found and loss is not None and not math.isfinite(loss):
            self._act('the loss is', 'The weights are finite', 'Only the loss was not')
        self.in_a_row = self.in_a_row + 1 if self.found else 0
        self.batch, self.losses = None, {}
        if self.in_a_row >= self.max_skipped:
            raise TrainingError(
                f'iteration {runner.iter + 1}: {self.in_a_row} steps in a row were not finite '
                'and left out: no batch can be learned from any more. Lower the learning rate, '
                'and go on from the newest checkpoint with --resume.'
            )

    def _act(self, what: str, state: str, consequence: str) -> None:
        runner, self.found = self.runner, True
        number = runner.iter + 1
        values = ((name, flat(value)) for name, value in self.losses.items() if 'loss' in name)
        losses = ', '.join(f'{name} {value:.4g}' for name, value in values if value is not None)
        path = os.path.join(runner.work_dir, f'not_finite_iter_{number}_rank_{get_rank()}.pth')
        images = image_files(self.batch)
        skipped = runner.message_hub.runtime_info.get('skipped_steps', 0) + 1
        found = (
            f'iteration {number}: {what} not finite ({losses or "no losses are known"}). '
            f'Images: {", ".join(images) or "without names"}.'
        )
        if skipped <= MOST_SAVED:
            torch.save(dict(images=images, losses=losses, batch=self.batch), path)
            found += f' The batch is saved in {path}.'
        if self.action == 'stop':
            raise TrainingError(
                f'{found} {state}, and the checkpoints are finite. Lower the learning rate, clip '
                'gradients, look at these images, or leave such steps out with --cfg-options '
                'default_hooks.finite.action=skip; and go on with --resume.'
            )
        for buffer, before in zip(self.buffers, self.before, strict=True):
            buffer.copy_(before)
        runner.message_hub.update_info('skipped_steps', skipped)
        runner.logger.warning(f'{found} {consequence} ({skipped} so far).')


@torch.no_grad()
def finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all values are, in one look at the device: a sum is, unless one of them is not."""
    values = (x.coalesce().values() if x.is_sparse else x for x in tensors)
    sums = [x.sum(dtype=torch.float32) for x in values]
    return not sums or bool(torch.stack(sums).isfinite().all())


def flat(value: Any) -> float | None:
    """A loss as mmengine adds it up: the mean of a tensor, the sum of a list."""
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, Tensor):
        return float(value.detach().float().mean())
    if isinstance(value, (list, tuple)) and value:
        return sum(flat(x) or 0.0 for x in value)
    return None


def image_files(batch: Any) -> list[str]:
    """The images of a batch, as far as its samples say."""
    samples = batch.get('data_samples', []) if isinstance(batch, dict) else []
    found = []
    for sample in samples if isinstance(samples, (list, tuple)) else []:
        for one in sample if isinstance(sample, (list, tuple)) else [sample]:
            found.append(getattr(one, 'img_path', None))
    return [str(path) for path in found if path]
