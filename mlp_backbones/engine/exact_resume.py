"""What makes a resumed training equal to one that was never stopped: random numbers and batches.

Random augmentation is seeded for each sample, by its place in the training, so that it depends
neither on the workers, nor on when they were started, nor on how many processes share a batch.
The random numbers of the model run on from the checkpoint.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info
from torch.utils.data import DataLoader, IterableDataset

from .stopping import SIGNALS


def random_states() -> dict[str, Any]:
    """The states of Python's, numpy's and torch's generators, as tensors and plain numbers."""
    version, numbers, gauss = random.getstate()
    _, key, position, has_gauss, cached = np.random.get_state()
    states = dict(
        python=[version, torch.tensor(numbers), gauss],
        numpy=[torch.from_numpy(key.astype(np.int64)), position, has_gauss, cached],
        torch=torch.get_rng_state(),
    )
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states['cuda'] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    version, numbers, gauss = states['python']
    random.setstate((version, tuple(numbers.tolist()), gauss))
    key, *rest = states['numpy']
    np.random.set_state(('MT19937', key.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states['torch'].cpu())
    if 'cuda' in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states['cuda'].cpu())


@contextmanager
def kept_random_states() -> Iterator[None]:
    """Whatever is drawn inside does not change what is drawn after it."""
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)


class NumberedBatch(list):
    """The indices of a batch, and the places of its samples in the training of all processes."""

    places: range


class NumberedBatches:
    """The batches of ``batch_sampler``, with the places of their samples."""

    def __init__(self, batch_sampler: Any):
        self.batch_sampler = batch_sampler
        self.rank, self.processes = get_dist_info()
        self.start(first=0)

    def start(self, first: int, skip: int = 0) -> int:
        """Say that the next batch is for iteration ``first``, and leave out ``skip`` before it.

        Returns:
            How often the batches came to an end, and began again, among those left out.
        """
        self.numbers, self.begun, passes = count(first), None, 0
        if skip:
            self.begun = iter(self.batch_sampler)
        for _ in range(skip):
            while next(self.begun, None) is None:
                passes += 1
                self.batch_sampler.sampler.set_epoch(passes)
                self.begun = iter(self.batch_sampler)
        return passes

    def __iter__(self) -> Iterator[NumberedBatch]:
        batches, self.begun = self.begun or iter(self.batch_sampler), None
        for indices in batches:
            batch = NumberedBatch(indices)
            step = batch_size(self.batch_sampler) * self.processes
            place = next(self.numbers) * step + self.rank
            # one process with the double batch has the samples of two, in turn
            batch.places = range(place, place + len(batch) * self.processes, self.processes)
            yield batch

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or name == 'batch_sampler':  # when it is copied or pickled
            raise AttributeError(name)
        return getattr(self.batch_sampler, name)


def batch_size(batch_sampler: Any) -> int:
    """The samples of a batch; at most, where a sampler of several data sets has one for each."""
    size = getattr(batch_sampler, 'batch_size', 1)
    return max(size) if isinstance(size, Sequence) else size


def number_batches(loader: DataLoader, seed: int) -> NumberedBatches | None:
    """Make each sample of ``loader`` depend on ``seed`` and its place in the training alone.

    Returns:
        Its batches; None if it has none of its own, as with an ``IterableDataset``.
    """
    if loader.batch_sampler is None or isinstance(loader.dataset, IterableDataset):
        return None
    batches = loader.batch_sampler
    if not isinstance(batches, NumberedBatches):
        batches = NumberedBatches(batches)
        object.__setattr__(loader, 'batch_sampler', batches)  # DataLoader itself forbids it
    dataset = loader.dataset
    # What a fetcher of torch asks for a whole batch, in a worker or not.
    dataset.__getitems__ = partial(fetch, dataset, seed)
    loader.generator = torch.Generator().manual_seed(seed)  # not the one of the model
    return batches


def fetch(dataset: Any, seed: int, indices: Sequence[int]) -> list:
    """The samples of a batch, each with random numbers of its own."""
    places = getattr(indices, 'places', None)
    get_all = getattr(type(dataset), '__getitems__', None)
    with kept_random_states():
        if get_all is not None:
            if places is not None:
                _seed(seed, places[0])
            return get_all(dataset, indices)
        samples = []
        for i, index in enumerate(indices):
            if places is not None:
                _seed(seed, places[i])
            samples.append(dataset[index])
        return samples


def _seed(*numbers: int) -> None:
    seeds = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(seeds[1])
    torch.default_generator.manual_seed(int(seeds[2]))


def let_workers_finish(loader: DataLoader) -> None:
    """Let the workers outlive a SIGTERM or SIGUSR1 to the whole group of processes, which tells
    the main process to save and leave.
    """
    loader.worker_init_fn = partial(_start_worker, loader.worker_init_fn)


def _start_worker(start: Callable | None, worker: int) -> None:
    if hasattr(signal, 'sigwaitinfo'):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        threading.Thread(target=_obey_parent, daemon=True).start()
    if start is not None:
        start(worker)


def _obey_parent() -> None:
    while True:
        if signal.sigwaitinfo(SIGNALS).si_pid == os.getppid():
            os._exit(0)


def go_on_within_epoch(loop: Any, done: int) -> None:
    """Let an epoch-based loop count its next epoch from batch ``done`` on."""
    run_iter = loop.run_iter
    loop.run_iter = lambda index, batch: run_iter(index + done, batch)


def count_from_zero(loop: Any) -> None:
    """Undo :func:`go_on_within_epoch`."""
    vars(loop).pop('run_iter', None)


def set_sampler_seed(sampler: Any, seed: int) -> bool:
    """Give mmengine's samplers the seed with which the training began; whether that worked."""
    if getattr(sampler, 'seed', None) == seed:
        return True
    if not hasattr(sampler, 'seed'):
        return False
    sampler.seed = seed
    if hasattr(sampler, 'skip'):  # InfiniteSampler
        sampler.skip(0)
    return hasattr(sampler, 'skip') or hasattr(sampler, 'round_up')
