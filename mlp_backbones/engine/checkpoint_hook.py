"""Saving checkpoints so that a kill, at any moment, or a full disk loses none."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from mlp_backbones.checkpoints import CheckpointError
from mlp_backbones.checkpoints.files import replacing

from ..registry import HOOKS
from .training_start import POINTER, checkpoint_folders, find_newest

BACKEND = 'mlp_backbones.WholeFiles'


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

    In a config of mmdet, mmseg or any other code base of OpenMMLab::

        default_hooks = dict(checkpoint=dict(type='mlp_backbones.SafeCheckpointHook'))

    All this is for local folders; other storage (``s3://``) is written in mmengine's way.

    Args:
        *args, **kwargs: mmengine's.

    Raises:
        CheckpointError: a checkpoint cannot be written.
    """

    def before_run(self, runner: Runner) -> None:
        """Choose the checkpoint to go on from, if nobody has."""
        if getattr(runner, '_resume', False) and runner._load_from is None:
            folders = checkpoint_folders(runner.work_dir, self.out_dir)
            runner._load_from = find_newest(folders)

    def before_train(self, runner: Runner) -> None:
        plain = self.backend_args is None and self.file_client_args is None
        self.local = plain and '://' not in str(self.out_dir or runner.work_dir)
        if self.local:
            self.backend_args = dict(backend=BACKEND)
        for name in [name for name in runner.message_hub.runtime_info if 'best_ckpt' in name]:
            self._move_here(runner, name)
        super().before_train(runner)
        if self.local and is_main_process():
            for part in Path(self.out_dir).glob('.*.pth.*'):  # of a save that was killed
                part.unlink(missing_ok=True)

    def _move_here(self, runner: Runner, name: str) -> None:
        """The path of a best checkpoint, in a work dir that was moved."""
        path = runner.message_hub.get_info(name)
        here = os.path.join(runner.work_dir, os.path.basename(str(path)))
        if path and not os.path.exists(path) and os.path.exists(here):
            runner.message_hub.update_info(name, here)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        keep = self.max_keep_ckpts
        ids = list(self.keep_ckpt_ids) if keep > 0 else []
        if keep > 0:
            # Those to be removed are named, too: killed before it, the resumed run removes them.
            ids = [*ids, step] if step not in ids else ids
            runner.message_hub.update_info('keep_ckpt_ids', ids)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        self._save(runner, name, meta, by_epoch=self.by_epoch)
        if keep > 0:
            if is_main_process():
                for old in ids[:-keep]:
                    self._remove(os.path.join(self.out_dir, self.filename_tmpl.format(old)))
            self.keep_ckpt_ids = deque(ids, keep)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))

    def _save(self, runner: Runner, name: str, meta: dict, by_epoch: bool) -> None:
        """Save the training state as ``name``, and point to it."""
        with self.explained(runner):
            runner.save_checkpoint(
                self.out_dir,
                name,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
            if is_main_process():
                with replacing(os.path.join(runner.work_dir, POINTER)) as part:
                    Path(part).write_text(self.file_backend.join_path(self.out_dir, name))

    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # DeepSpeed's
            self.file_backend.rmtree(path)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        backend, old = self.file_backend, []
        self.file_backend = PutOff(backend, old)
        try:
            with self.explained(runner):
                super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = backend
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
