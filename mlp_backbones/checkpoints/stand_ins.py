"""What a pickled checkpoint may hold beside tensors and Python's own values.

``torch.load(weights_only=True)`` meets a stand-in for each class and function below, which keeps
what it is given. Only then are values made of it, by code of ours. So no class of a checkpoint is
ever imported, and none of its functions called: not by the tables that other code has given to
``torch.serialization.add_safe_globals`` either, such as mmengine's, with ``getattr``.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


class StandIn:
    """An object that is not built: its arguments and its state."""

    def __init__(self, *args):
        self.args = args
        self.state = None

    def __setstate__(self, state):
        self.state = state

    def plain(self) -> object:
        """The value in its place."""
        return self.state


class DType(StandIn):
    """``numpy.dtype`` of numbers or text."""

    def plain(self) -> np.dtype:
        code = self.args[0]
        if not (isinstance(code, str) and re.fullmatch(r'[biufcSU]\d+', code)):
            raise pickle.UnpicklingError(f'arrays of numpy.dtype({code!r}) cannot be read')
        order = self.state[1] if self.state else '|'
        return np.dtype(code).newbyteorder(order)


class Array(StandIn):
    """``numpy.ndarray``."""

    def plain(self) -> np.ndarray:
        _, shape, dtype, fortran, raw = self.state
        order = 'F' if fortran else 'C'
        return np.frombuffer(raw, dtype.plain()).reshape(shape, order=order).copy()


class History(StandIn):
    """mmengine's list of logged numbers."""

    def plain(self) -> HistoryBuffer:
        log, count = (plain(self.state[name]) for name in ('_log_history', '_count_history'))
        return HistoryBuffer(log, count, int(self.state['max_length']))


def _array(*args) -> Array:
    return Array()


def _scalar(dtype: DType, raw: bytes) -> np.generic:
    return np.frombuffer(raw, dtype.plain())[0]


def _nothing(*args) -> None:
    return None


NAMES = {
    'argparse.Namespace': StandIn,  # DeiT's options
    'yacs.config.CfgNode': OrderedDict,  # Swin's
    'mmengine.logging.history_buffer.HistoryBuffer': History,
    'builtins.getattr': _nothing,  # the functions in a HistoryBuffer
    'builtins.slice': slice,
    'numpy.dtype': DType,
    'numpy.ndarray': Array,
}
for _package in ('numpy.core', 'numpy._core'):  # of numpy 1, and of 2
    NAMES[f'{_package}.multiarray._reconstruct'] = _array
    NAMES[f'{_package}.multiarray.scalar'] = _scalar


@contextmanager
def stand_ins() -> Iterator[None]:
    """Let ``torch.load(weights_only=True)`` meet the stand-ins, and nothing else."""
    serialization = torch.serialization
    if not knows_stand_ins():
        yield
        return
    allowed = serialization.get_safe_globals()
    serialization.clear_safe_globals()
    serialization.add_safe_globals([(stand_in, name) for name, stand_in in NAMES.items()])
    try:
        yield
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(allowed)


def knows_stand_ins() -> bool:
    """Whether this torch has them: from 2.6 on, which also mended CVE-2025-32434, a way to run
    code in spite of ``weights_only=True``.
    """
    return hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint')


def plain(x: object, done: dict[int, tuple[object, object]] | None = None) -> object:
    """``x`` with values in place of its stand-ins; dicts and lists are changed in place.

    An object that occurs several times, or contains itself, is made once: ``done`` keeps it
    together with its original, so that no other object gets that id.
    """
    done = {} if done is None else done
    if id(x) in done:
        return done[id(x)][1]
    value = x
    if isinstance(x, StandIn):
        value = plain(x.plain(), done)
    elif isinstance(x, dict):
        done[id(x)] = x, x
        for key, item in x.items():
            x[key] = plain(item, done)
    elif isinstance(x, list):
        done[id(x)] = x, x
        x[:] = [plain(item, done) for item in x]
    elif type(x) is tuple:
        value = tuple([plain(item, done) for item in x])
    else:
        return x
    done[id(x)] = x, value
    return value
