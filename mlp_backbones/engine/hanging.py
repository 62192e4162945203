"""Processes of one training that wait for one another for ever: who is waited for, and an end."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from typing import Any

from mmengine.dist import barrier, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.distributed import Store
from torch.distributed.distributed_c10d import _get_default_store

# torch's own limits, in seconds, where env_cfg.dist_cfg.timeout sets none
LIMITS = dict(nccl=600, gloo=1800)


class HangHook(Hook):
    """Ends a distributed run whose processes have not gone on for ``limit`` seconds.

    Every process says in the store of the process group which iteration it has finished. A
    process that waits for longer than that ends with a message that names those that are
    behind. torch's own limit, a little later, would name the operation instead.
    """

    priority = 'LOWEST'

    def __init__(self, limit: float):
        self.limit = limit
        self.watch: Watch | None = None

    def before_run(self, runner: Runner) -> None:
        self.watch = Watch(_get_default_store(), get_rank(), get_world_size(), self.limit)
        self.watch.beat('has not begun')
        barrier()
        self.watch.start()

    def after_train_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        self.watch.beat(f'has finished training iteration {runner.iter + 1}')

    def after_val_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        self.watch.beat(f'has finished evaluation batch {batch_idx + 1}')

    def after_test_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        self.watch.beat(f'has finished test batch {batch_idx + 1}')

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        self.watch.beat('has finished an evaluation')

    def after_run(self, runner: Runner) -> None:
        self.watch.done.set()


class Watch(threading.Thread):
    """Keeps in the store what a process has done, and that it runs at all."""

    def __init__(self, store: Store, rank: int, count: int, limit: float):
        super().__init__(daemon=True)
        self.store, self.rank, self.count, self.limit = store, rank, count, limit
        self.done = threading.Event()
        self.beats = 0
        self.period = min(5.0, limit / 20)

    def beat(self, what: str) -> None:
        self.last = time.monotonic()
        self.beats += 1
        state = dict(beats=self.beats, what=what, host=socket.gethostname(), pid=os.getpid())
        self.store.set(f'mlp_backbones/beat/{self.rank}', json.dumps(state))
        self.store.set(f'mlp_backbones/alive/{self.rank}', str(time.time()))

    def run(self) -> None:
        while not self.done.wait(self.period):
            if time.monotonic() - self.last < self.limit:
                self.store.set(f'mlp_backbones/alive/{self.rank}', str(time.time()))
                continue
            time.sleep(self.period)  # the others are as late, and have said that they run
            asked = threading.Thread(target=self.explain, daemon=True)
            asked.start()
            asked.join(self.period)
            if asked.is_alive():
                self.say('  rank 0, which keeps the store of the process group, does not answer')
            os._exit(1)

    def explain(self) -> None:
        """Say who is behind, unless another process does."""
        keys = [f'mlp_backbones/{key}/{i}' for key in ('beat', 'alive') for i in range(self.count)]
        values = [self.store.get(key) for key in keys]
        states = [json.loads(value) for value in values[: self.count]]
        silent = [time.time() - float(value) > 3 * self.period for value in values[self.count :]]
        least = min(state['beats'] for state in states)
        if any(silent) and not all(silent):
            behind = [rank for rank in range(self.count) if silent[rank]]
            why = 'and does not run any more: it was stopped, or its machine is lost'
        else:
            behind = [rank for rank, state in enumerate(states) if state['beats'] == least]
            why = 'and runs: it waits for data, or took another path than the others'
        others = [rank for rank in range(self.count) if rank not in behind] or behind
        if self.rank == others[0]:
            lines = [
                f'  rank {rank} (pid {states[rank]["pid"]} on {states[rank]["host"]}) '
                f'{states[rank]["what"]}, {why}'
                for rank in behind
            ]
            self.say('\n'.join(lines))

    def say(self, who: str) -> None:
        print(
            f'The run hangs: {self.count} processes wait for one another since '
            f'{self.limit:.0f} s. Waited for:\n{who}\n'
            'Go on with --resume; for slower steps, raise env_cfg.dist_cfg.timeout (seconds).',
            file=sys.stderr,
            flush=True,
        )
