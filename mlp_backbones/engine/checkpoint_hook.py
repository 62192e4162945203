"""Saving checkpoints so that a training can be stopped at any moment and loses nothing."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import (
    all_gather_object,
    all_reduce,
    barrier,
    get_rank,
    get_world_size,
    is_main_process,
)
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook, EarlyStoppingHook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from mlp_backbones.checkpoints import CheckpointError
from mlp_backbones.checkpoints.files import replacing

from ..registry import HOOKS
from .exact_resume import (
    batch_size,
    count_from_zero,
    go_on_within_epoch,
    let_workers_finish,
    number_batches,
    random_states,
    set_random_states,
    set_sampler_seed,
)
from .stopping import SIGNALS, TO_BE_RESUMED, note_saved
from .training_start import POINTER, checkpoint_folders, find_newest

BACKEND = 'mlp_backbones.WholeFiles'
RESUME = 'resume.pth'
STATE = 'resume_state'  # what a checkpoint calls ours


class WholeFiles(LocalBackend):
    """Files on disk that are there whole or not at all."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write to a temporary file, sync, read it back, and rename it."""
        target = Path(filepath)
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as part:
            with open(part, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            check_written(part, obj)


def check_written(path: str, expected: bytes, chunk: int = 1 << 24) -> None:
    """Raise OSError if the file does not hold ``expected``."""
    view, at = memoryview(expected), 0
    with open(path, 'rb') as file:
        while (part := file.read(chunk)) and part == view[at : at + len(part)]:
            at += len(part)
    if part or at != len(view):
        raise OSError(f'{path} differs from what was written after {at} of {len(view)} bytes')


register_backend(BACKEND, WholeFiles, force=True)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, from whose checkpoints a training can always go on.

    - A checkpoint is written to a temporary file, synced, read back and renamed; only then are
      older ones removed, of ``max_keep_ckpts`` and the best. ``last_checkpoint`` is replaced as a
      whole, too.
    - With ``resume=True`` and no ``load_from`` the newest complete checkpoint of the work dir is
      taken, see :func:`find_newest`, also where the work dir was moved.
    - If a checkpoint cannot be written, on a full disk above all, the run ends with one error,
      and the one before is as it was.
    - Between checkpoints, ``resume.pth`` is replaced at least every ``resume_interval``
      iterations, and before an evaluation; it is removed at the end of the training. After
      SIGTERM or SIGUSR1 it is written, too, and the run ends with exit code 75, "start me
      again". A training goes on from it in the middle of an epoch, without reading the images
      before.
    - A resumed training is equal to one that was never stopped, bit for bit where the device's
      operations are: a checkpoint has the state of every random generator of each process, and
      the random augmentation of a sample depends on the seed and its place in the training
      alone. An evaluation that was due at the checkpoint is made (again). What makes a
      difference, such as another batch size, is logged as a warning.

    In a config of mmdet, mmseg or any other code base of OpenMMLab::

        default_hooks = dict(checkpoint=dict(type='mlp_backbones.SafeCheckpointHook'))

    All this is for local folders; other storage (``s3://``) is written in mmengine's way, and so
    are the files of a ``FlexibleRunner``.

    Args:
        *args, **kwargs: mmengine's.
        resume_interval: After how many iterations without a checkpoint ``resume.pth`` is written.
            Default: 2000; -1: never, except for a signal.

    Raises:
        CheckpointError: a checkpoint cannot be written; processes resume from different ones.
    """

    def __init__(self, *args, resume_interval: int = 2000, **kwargs):
        super().__init__(*args, **kwargs)
        self.resume_interval = resume_interval
        self.training = False
        self.resumed: dict | None = None  # ours, in the checkpoint that the run goes on from
        self.state: dict | None = None  # ours, in the checkpoint that is being written
        self.place: dict = {}  # its epoch and iteration: FlexibleRunner counts in its own way
        self.signal: int | None = None
        self.before_evaluation: dict | None = None  # the random states

    def before_run(self, runner: Runner) -> None:
        """Choose the checkpoint to go on from, if nobody has."""
        if getattr(runner, '_resume', False) and runner._load_from is None:
            folders = checkpoint_folders(runner.work_dir, self.out_dir)
            runner._load_from = find_newest(folders)
        self.lr = learning_rate(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if getattr(runner, '_resume', False):
            self.resumed = checkpoint.get(STATE, {})

    def before_train(self, runner: Runner) -> None:
        plain = self.backend_args is None and self.file_client_args is None
        self.local = plain and '://' not in str(self.out_dir or runner.work_dir)
        if self.local:
            self.backend_args = dict(backend=BACKEND)
            self._find_best_here(runner)
        super().before_train(runner)
        if self.local and is_main_process():
            for part in Path(self.out_dir).glob('.*.pth.*'):  # of a save that was killed
                part.unlink(missing_ok=True)
        self.training = True
        self.saved_at = runner.iter  # or the beginning
        self.batches_done = 0  # of the epoch
        self._listen()
        for loop in (runner.train_loop, runner.val_loop):
            if isinstance(getattr(loop, 'dataloader', None), DataLoader):
                let_workers_finish(loop.dataloader)
        self._take_position(runner)
        if self.resumed is not None:
            stopping = self.resumed.get('early_stopping', [])
            for hook, state in zip(early_stopping(runner), stopping, strict=False):
                hook.wait_count, hook.best_score = state
            self._set_random_states()
            if self.batches_done == 0 and evaluation_due(runner):
                runner.logger.info('The evaluation that was due at the checkpoint')
                runner.val_loop.run()

    def _set_random_states(self) -> None:
        states = (self.resumed or {}).get('random_states', [])
        if len(states) == get_world_size():
            set_random_states(states[get_rank()])

    def _take_position(self, runner: Runner) -> None:
        """Let the next batch be the one after the checkpoint's last."""
        loop, resumed = runner.train_loop, self.resumed
        now = facts(runner, self.lr)
        if resumed is not None:
            if len(set(all_gather_object(runner.iter))) > 1:
                raise CheckpointError(
                    'the processes resume from different iterations; the work dir must be one '
                    'that all machines share'
                )
            for warning in differences(resumed, now):
                runner.logger.warning(warning)
        self.batches = number_batches(loop.dataloader, all_gather_object(runner.seed)[0])
        if resumed is None or self.batches is None:
            return
        sampler = getattr(self.batches.batch_sampler, 'sampler', None)
        if 'sampler_seed' in resumed and not set_sampler_seed(sampler, resumed['sampler_seed']):
            runner.logger.warning(
                f'{type(sampler).__name__} cannot be given the seed of the checkpoint: the images '
                'come in another order. Set randomness.seed.'
            )
        # as many images, if a batch has another size now
        scale = resumed.get('batch', now['batch']) / now['batch']
        if isinstance(loop, EpochBasedTrainLoop):
            self.batches_done = int(resumed.get('batches_in_epoch', 0) * scale)
        elif hasattr(getattr(loop, 'dataloader_iterator', None), 'skip_iter'):
            # mmengine before 0.10.12 has none, and reads all images again: exact, too, but slow
            iterator = loop.dataloader_iterator
            iterator.skip_iter = lambda steps: None  # mmengine's own, which may load all images
            iterator._epoch = self.batches.start(runner.iter, skip=int(runner.iter * scale))

    def before_train_epoch(self, runner: Runner) -> None:
        loop = runner.train_loop
        if isinstance(loop, EpochBasedTrainLoop):
            count_from_zero(loop)
            if self.batches is not None:
                self.batches.start(runner.iter, skip=self.batches_done)
            if self.batches_done:
                go_on_within_epoch(loop, self.batches_done)
        self._set_random_states()  # other hooks, and an evaluation, came in between
        self.resumed = None

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            self.batches_done = batch_idx + 1
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        done = runner.iter + 1
        stop = self._signalled()
        if whole_step(runner) and self.saved_at != done:
            if stop or 0 < self.resume_interval <= done - self.saved_at:
                self._save_to_resume(runner, done)
        if stop and self.saved_at == done:
            barrier()  # the first process has written it
            self._leave(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        self.batches_done = 0
        super().after_train_epoch(runner)

    def before_val(self, runner: Runner) -> None:
        if self.training:
            if self.resume_interval > 0 and self.saved_at != runner.iter:
                self._save_to_resume(runner, runner.iter)
            self.before_evaluation = random_states()

    def after_val_iter(self, runner: Runner, *args, **kwargs) -> None:
        if self.training and self.signal and self.saved_at == runner.iter:
            self._leave(runner)

    def after_val(self, runner: Runner) -> None:
        if self.training:
            set_random_states(self.before_evaluation)
            self.before_evaluation = None

    def after_train(self, runner: Runner) -> None:
        super().after_train(runner)
        self.training = False
        self._listen(False)
        info = runner.message_hub.runtime_info
        path = os.path.join(self.out_dir, RESUME)
        if self.local and is_main_process() and info.get('last_ckpt_iter') == runner.iter:
            last = os.path.join(self.out_dir, os.path.basename(info['last_ckpt']))
            if os.path.exists(path) and os.path.exists(last):
                self._point_to(runner, last)
                os.remove(path)

    def _listen(self, on: bool = True) -> None:
        """Note the signals that mean "save and leave". They may come twice, from Slurm and from
        torchrun.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        if on:
            self.handlers = {number: signal.signal(number, self._note) for number in SIGNALS}
        else:
            for number, handler in self.handlers.items():
                signal.signal(number, handler or signal.SIG_DFL)

    def _note(self, number: int, frame: Any) -> None:
        self.signal = number

    def _signalled(self) -> bool:
        """Whether any process has been told to stop."""
        if get_world_size() == 1:
            return self.signal is not None
        number = torch.tensor(self.signal or 0)
        all_reduce(number, 'max')
        if not number:  # self.signal may be set by now: the next iteration asks again
            return False
        self.signal = int(number)
        return True

    def _save_to_resume(self, runner: Runner, done: int) -> None:
        runner.logger.info(f'Saving {RESUME} at {done} iterations')
        self._save(runner, RESUME, dict(epoch=runner.epoch, iter=done), by_epoch=False)

    def _leave(self, runner: Runner) -> None:
        runner.logger.warning(
            f'{signal.Signals(self.signal).name}: the training is saved after {self.saved_at} '
            f'iterations. Exit code {TO_BE_RESUMED}: go on with --resume.'
        )
        note_saved()
        raise SystemExit(TO_BE_RESUMED)

    def _find_best_here(self, runner: Runner) -> None:
        """In a work dir that was moved, or copied, the best checkpoints are this folder's."""
        folder = checkpoint_folders(runner.work_dir, self.out_dir)[-1]
        for name, path in list(runner.message_hub.runtime_info.items()):
            if name.startswith('best_ckpt') and path:
                here = os.path.join(folder, os.path.basename(path))
                runner.message_hub.update_info(name, here)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        meta = {**meta, **self.place}
        keep = self.max_keep_ckpts
        ids = list(self.keep_ckpt_ids) if keep > 0 else []
        if keep > 0:
            # Those to be removed are named, too: killed before it, the resumed run removes them.
            ids = [*ids, step] if step not in ids else ids
            runner.message_hub.update_info('keep_ckpt_ids', ids)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.message_hub.update_info('last_ckpt_iter', meta['iter'])
        self._save(runner, name, meta, by_epoch=self.by_epoch)
        if keep > 0:
            if is_main_process():
                for old in ids[:-keep]:
                    self._remove(os.path.join(self.out_dir, self.filename_tmpl.format(old)))
            self.keep_ckpt_ids = deque(ids, keep)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))

    def _save(self, runner: Runner, name: str, meta: dict, by_epoch: bool) -> None:
        """Save the training state as ``name``, and point to it."""
        self.saved_at = meta['iter']
        outer, self.place = self.place, dict(epoch=meta['epoch'], iter=meta['iter'])
        self.state = dict(
            facts(runner, self.lr),
            batches_in_epoch=self.batches_done,
            random_states=all_gather_object(self.before_evaluation or random_states()),
        )
        with self.explained(runner):
            runner.save_checkpoint(
                self.out_dir,
                name,
                self.file_client_args,
                save_optimizer=self.save_optimizer or name == RESUME,
                save_param_scheduler=self.save_param_scheduler or name == RESUME,
                meta=meta,
                by_epoch=by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
            if is_main_process():
                self._point_to(runner, self.file_backend.join_path(self.out_dir, name))
        self.state, self.place = None, outer

    def _point_to(self, runner: Runner, path: str) -> None:
        with replacing(os.path.join(runner.work_dir, POINTER)) as part:
            Path(part).write_text(path)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['meta'].update(self.place)
        if self.state is not None:  # not a best one, which holds weights alone
            checkpoint[STATE] = self.state

    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # DeepSpeed's
            self.file_backend.rmtree(path)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not (self.save_best and self.training):  # Runner.val() alone has nothing to save
            return
        backend, old = self.file_backend, []
        self.file_backend = PutOff(backend, old)
        self.place = dict(epoch=runner.epoch, iter=runner.iter)
        try:
            with self.explained(runner):
                super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend, self.place = backend, {}
        info = runner.message_hub.runtime_info
        best = [value for name, value in info.items() if name.startswith('best_ckpt')]
        for path in old:
            if path not in best:
                self._remove(path)

    @contextmanager
    def explained(self, runner: Runner) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f'a checkpoint could not be written to {self.out_dir}: {error}. Those before it '
                'are whole. Make room, or whatever it asks for, and go on with --resume.'
            ) from error


class PutOff:
    """A file backend that only notes what it is to remove."""

    def __init__(self, backend: LocalBackend, noted: list[str]):
        self.backend, self.noted = backend, noted

    def __getattr__(self, name: str):
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        self.noted.append(path)

    rmtree = remove


def learning_rate(runner: Runner) -> float | None:
    """The one that the config asks for, before any schedule; None for several optimizers."""
    groups = getattr(getattr(runner.optim_wrapper, 'optimizer', None), 'param_groups', None)
    return max(group.get('initial_lr', group['lr']) for group in groups) if groups else None


def facts(runner: Runner, lr: float | None) -> dict[str, Any]:
    """That on which the course of a training depends, beside the model."""
    loader = runner.train_loop.dataloader
    sampler = getattr(getattr(loader, 'batch_sampler', None), 'sampler', None)
    state = dict(
        processes=get_world_size(),
        batch=batch_size(loader.batch_sampler) * get_world_size(),
        images=len(loader.dataset),
        lr=lr,
        early_stopping=[[hook.wait_count, hook.best_score] for hook in early_stopping(runner)],
    )
    if hasattr(sampler, 'seed'):
        state['sampler_seed'] = sampler.seed
    return state


def early_stopping(runner: Runner) -> list[EarlyStoppingHook]:
    return [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]


def differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """What keeps a resumed training from being equal to one that was not stopped."""
    names = dict(
        processes='the number of processes',
        batch='the batch size, over all processes,',
        images='the number of training images',
        lr='the learning rate of the config',
    )
    if not before:
        yield (
            'The checkpoint was not written by mlp_backbones.SafeCheckpointHook: random numbers '
            'do not go on where they stopped, so that the result differs from that of a '
            'training that was not stopped.'
        )
    for key, name in names.items():
        if key in before and before[key] != now[key]:
            used = "; the checkpoint's goes on" if key == 'lr' else ''
            yield (
                f'{name} was {before[key]}, and is {now[key]} now{used}: the result differs from '
                'that of a training that was not stopped.'
            )


def whole_step(runner: Runner) -> bool:
    """Whether no gradients wait for the next iterations, as they do when they are accumulated."""
    try:
        return runner.optim_wrapper.should_update()
    except (AttributeError, NotImplementedError):
        return True


def evaluation_due(runner: Runner) -> bool:
    """Whether the loop evaluates where the checkpoint was saved, right after it."""
    loop = runner.train_loop
    if not isinstance(loop, (EpochBasedTrainLoop, IterBasedTrainLoop)):
        return False
    done = loop.epoch if isinstance(loop, EpochBasedTrainLoop) else loop.iter
    end = loop.max_epochs if isinstance(loop, EpochBasedTrainLoop) else loop.max_iters
    if runner.val_loop is None or done < max(loop.val_begin, 1):
        return False
    loop._decide_current_val_interval()
    return done % loop.val_interval == 0 or done == end
