"""Images and annotations that cannot be trained on: named, or left out and counted."""

from __future__ import annotations

import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import Value
from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mlp_backbones.data.masks import look_at_map
from mlp_backbones.data.problems import look_at

from ..registry import HOOKS

LIST = 'skipped_images.txt'


class DataError(ValueError):
    """A sample that cannot be trained on; the message names its file."""


@HOOKS.register_module()
class BadDataHook(Hook):
    """Names the file of a sample that cannot be trained on, or leaves such samples out.

    That is an image or a label map that cannot be read, or with which the pipeline fails; a label
    map of another size than its image, or with labels that the classes do not have; boxes that are
    not finite, and labels of objects out of range. An image of 16 bits a value, of which OpenCV
    keeps the upper 8, and a JPEG file that was cut off are trained on, as in mmdet and mmseg, with
    a warning.

    In a config of mmdet, mmseg or any other code base of OpenMMLab::

        default_hooks = dict(bad_data=dict(type='mlp_backbones.BadDataHook', skip=True))

    Args:
        skip: Instead of ending the run, take another image for it, chosen at random as mmengine
            does where a pipeline gives None; count it, and write its name into
            ``skipped_images.txt`` in the work dir. Truncated files are left out, too.
            Default: False. Evaluations leave nothing out.
    """

    def __init__(self, skip: bool = False):
        self.skip = skip
        self.count = Value('i', 0)  # of all workers

    def before_train(self, runner: Runner) -> None:
        record = os.path.join(runner.work_dir, LIST)
        # the training last, whose word counts for a data set that both share
        for loop, skip in ((runner.val_loop, False), (runner.train_loop, self.skip)):
            guard = Guard(skip, self.count, record)
            dataset = getattr(getattr(loop, 'dataloader', None), 'dataset', None)
            for part in base_datasets(dataset):
                part.prepare_data = partial(guard, part, type(part).prepare_data)

    def after_train_epoch(self, runner: Runner) -> None:
        if self.count.value:
            runner.logger.warning(
                f'{self.count.value} times so far, a broken image was left out: see {LIST}'
            )


def base_datasets(dataset: Any) -> Iterator[BaseDataset]:
    """The data sets that load images, in one that may wrap them."""
    if isinstance(dataset, BaseDataset):
        yield dataset
        return
    for inner in getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]:
        if inner is not None:
            yield from base_datasets(inner)


class Guard:
    """Prepares samples, and knows what was wrong with them."""

    def __init__(self, skip: bool, count: Any, record: str):
        self.skip, self.count, self.record = skip, count, record
        self.seen: dict[str, str | None] = {}  # why a file was cut off, if it was

    def __call__(self, dataset: BaseDataset, prepare: Callable, index: int) -> Any:
        path, label_map = files(dataset, index)
        truncated = self.look_once(path)
        try:
            if truncated and self.skip:
                raise DataError(truncated)
            sample = prepare(dataset, index)
            wrong = wrong_annotations(sample, dataset)
            if wrong:
                raise DataError(f'{path}: {wrong}')
            return sample
        except Exception as error:
            message = self.explain(path, label_map, error)
            if not self.skip:
                raise DataError(message) from error
        with self.count.get_lock():
            self.count.value += 1
        with open(self.record, 'a') as record:
            record.write(f'{message}\n')
        return None  # mmengine takes another one

    def look_once(self, path: str | None) -> str | None:
        """Warn of what OpenCV reads without a word; if the file was cut off, say so."""
        if path is None or not os.path.isfile(path):
            return None
        if path not in self.seen:
            self.seen[path] = cut_off(path)
            for problem in look_at(Path(path)).problems:
                if not problem.is_error:
                    warn(problem.text)
            if self.seen[path] and not self.skip:
                warn(f'{self.seen[path]}; the rest is grey')
        return self.seen[path]

    def explain(self, path: str | None, label_map: str | None, error: Exception) -> str:
        if isinstance(error, DataError):
            return str(error)
        if path is not None and '://' not in path:
            image = look_at(Path(path), whole=True)
            problems = [*image.problems]
            if label_map is not None:
                problems += look_at_map(Path(label_map), image.size)[1]
            for problem in problems:
                if problem.is_error:
                    return problem.text
        return f'{path}: {type(error).__name__} in its pipeline: {error}'


def files(dataset: BaseDataset, index: int) -> tuple[str | None, str | None]:
    """The image of a sample, and its label map."""
    info = dataset.get_data_info(index)
    info = info if isinstance(info, dict) else {}
    return info.get('img_path'), info.get('seg_map_path')


def cut_off(path: str) -> str | None:
    """What is wrong with a JPEG file without an end."""
    if not path.lower().endswith(('.jpg', '.jpeg')):
        return None
    with open(path, 'rb') as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 2, 0))
        if size == 0 or file.read() == b'\xff\xd9':
            return None
    # some programs write more after the end
    found = [x for x in look_at(Path(path), whole=True).problems if x.kind == 'truncated image']
    return found[0].text if found else None


def wrong_annotations(sample: Any, dataset: BaseDataset) -> str | None:
    """What is wrong with the annotations of a packed sample, for the classes of its data set."""
    sample = sample if isinstance(sample, dict) else {}
    data, inputs = sample.get('data_samples'), sample.get('inputs')
    classes = len(dataset.metainfo.get('classes') or ())
    maps = getattr(getattr(data, 'gt_sem_seg', None), 'data', None)
    if isinstance(maps, torch.Tensor) and isinstance(inputs, torch.Tensor):
        size, expected = maps.shape[-2:], inputs.shape[-2:]
        # In an evaluation, the label map has the size of the image before its pipeline.
        if size not in (expected, data.get('ori_shape')):
            return (
                f'its label map {data.get("seg_map_path", "")} has another size: after the '
                f'pipeline {size[1]} x {size[0]} pixels, the image {expected[1]} x {expected[0]}'
            )
    if classes and isinstance(maps, torch.Tensor):
        ignored = getattr(dataset, 'ignore_index', 255)
        wrong = (maps >= classes) & (maps != ignored) | (maps < 0)
        if wrong.any():
            labels = sorted(maps[wrong].unique().tolist())
            return (
                f'its label map {data.get("seg_map_path", "")} has the labels '
                f'{", ".join(map(str, labels[:5]))}; the {classes} classes have 0 to '
                f'{classes - 1}, and {ignored} is ignored'
            )
    objects = getattr(data, 'gt_instances', None)
    labels = getattr(objects, 'labels', None)
    if classes and isinstance(labels, torch.Tensor) and len(labels):
        if labels.min() < 0 or labels.max() >= classes:
            return f'an object has the label {int(labels.max())}; there are {classes} classes'
    boxes = getattr(getattr(objects, 'bboxes', None), 'tensor', getattr(objects, 'bboxes', None))
    if isinstance(boxes, torch.Tensor) and not boxes.isfinite().all():
        return 'a box is not finite'
    return None


def warn(text: str) -> None:
    print(f'warning: {text}', file=sys.stderr, flush=True)


def explain_worker(error: Exception) -> str | None:
    """What ended a worker of a DataLoader; None if the error is about something else."""
    try:
        text = str(error)
        places = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        if any(place.endswith('torch/multiprocessing/reductions.py') for place in places):
            # It was asked for a tensor before torch noticed that it is dead, and says of what.
            text = 'DataLoader worker'
            time.sleep(1)
    except RuntimeError as noticed:
        text = str(noticed)
    if 'DataLoader worker' not in text:
        return None
    killed = re.search(r'worker \(pid\(?s?\)? ?(\d+)\) is killed by signal: ([\w ]+)', text)
    advice = (
        'the system kills what takes too much memory (dmesg says so): lower num_workers or '
        'batch_size of the data loaders'
    )
    if killed and 'Bus' in killed[2]:
        advice = (
            'the shared memory (/dev/shm) is full: enlarge it (docker run --shm-size=8g), or '
            'lower num_workers of the data loaders'
        )
    what = f'with {killed[2].strip()}' if killed else 'unexpectedly'
    return f'a worker that loads images ended {what}: {advice}; go on with --resume.'
