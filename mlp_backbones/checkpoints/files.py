"""Reading weights from files and addresses, without running code that lies in them.

The format is told from the content: a file of ``torch.save`` (.pth, .bin), safetensors, or
numpy's .npz.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier, get_rank
from mmengine.fileio import get_local_path
from mmengine.logging import print_log
from torch import Tensor

TIMEOUT = 30  # seconds without an answer
# Where training programs put the weights in a checkpoint.
WRAPPERS = ('state_dict', 'model', 'module')


class Skipped:
    """Stands for an object of a training state, which is neither needed nor built."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


def _skip(*args) -> Skipped:
    return Skipped()


def _skippable() -> list:
    """What mmengine, timm and DeiT save beside the weights: log values, numpy's random
    state, options. `torch.load` meets a stand-in for each, so that none of them is built.
    """
    functions = ['builtins.getattr', 'builtins.slice']
    classes = ['argparse.Namespace', 'mmengine.logging.history_buffer.HistoryBuffer']
    for package in ('numpy.core', 'numpy._core'):
        functions += [f'{package}.multiarray.{name}' for name in ('_reconstruct', 'scalar')]
    classes += ['numpy.ndarray', 'numpy.dtype']
    return [*((_skip, name) for name in functions), *((Skipped, name) for name in classes)]


def read_weights(address: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint by their names, as they are in it.

    Args:
        address: A path, or an address such as ``https://...``, which is downloaded once.

    Raises:
        FileNotFoundError: if there is no such file.
        ConnectionError: if the address cannot be reached.
        ImportError: for safetensors, if that package is not installed.
        ValueError: if it is no whole checkpoint, or holds objects other than weights.
    """
    with local_file(address) as path:
        reader = _find_reader(path, address)
        try:
            content = reader(path)
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # a damaged file fails in a dozen ways
            reason = _why_refused(error)
            raise ValueError(f'{address} cannot be read as a checkpoint: {reason}') from error
    weights = _unwrap(content)
    if not weights:
        raise ValueError(
            f'{address} is no checkpoint: it holds no weights, but {_summary(content)}.'
        )
    return weights


@contextmanager
def local_file(address: str) -> Iterator[str]:
    """A local copy of ``address``; downloads of http(s) are kept with those of torch.hub."""
    if '://' not in address:
        path = os.path.expanduser(address)
        if not os.path.exists(path):
            raise FileNotFoundError(f'{address} does not exist.')
        yield path
    elif address.startswith(('http://', 'https://')):
        if get_rank() == 0:
            try:
                path = _download(address)
            finally:
                barrier()
        else:
            barrier()
            path = _download(address)  # a node without the file of rank 0 fetches its own
        yield path
    else:
        try:
            local = get_local_path(address)
            path = local.__enter__()
        except Exception as error:
            raise ConnectionError(
                f'{address} cannot be fetched: {error}. Download it and give its path.'
            ) from error
        try:
            yield str(path)
        finally:
            local.__exit__(None, None, None)


def _download(url: str) -> str:
    # Many addresses end in model.safetensors: the name alone would mix them up.
    name = PurePosixPath(urlparse(url).path)
    digest = hashlib.sha256(url.encode()).hexdigest()[:8]
    target = Path(torch.hub.get_dir(), 'checkpoints', f'{name.stem}-{digest}{name.suffix}')
    if target.is_file():
        return str(target)
    print_log(f'Downloading {url} to {target}', logger='current')
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as source, replacing(target) as part:
            with open(part, 'wb') as file:
                shutil.copyfileobj(source, file, 1 << 20)
            size = source.headers.get('Content-Length')
            if size and os.path.getsize(part) != int(size):
                raise ConnectionError(f'cut off after {os.path.getsize(part)} of {size} bytes')
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise FileNotFoundError(f'{url} does not exist (404 {error.reason}).') from error
        raise _unreachable(url, error) from error
    except OSError as error:
        raise _unreachable(url, error) from error
    return str(target)


def _unreachable(url: str, error: Exception) -> ConnectionError:
    reason = getattr(error, 'reason', error)
    return ConnectionError(
        f'{url} cannot be fetched: {reason}. Download it elsewhere and give its path instead.'
    )


@contextmanager
def replacing(target: str | Path) -> Iterator[str]:
    """A new file beside ``target`` that takes its place once the block has ended well."""
    target = Path(target)
    handle, part = tempfile.mkstemp(dir=target.parent, prefix=f'.{target.name}.')
    os.close(handle)
    try:
        yield part
        with open(part, 'rb+') as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(part, 0o666 & ~umask)  # mkstemp's are private
        os.replace(part, target)
    except BaseException:
        os.unlink(part)
        raise


def write_weights(target: str | Path, weights: dict[str, Tensor], meta: dict[str, str]) -> None:
    """Write a checkpoint, whole or not at all: safetensors, or by ``torch.save``."""
    with replacing(target) as part:
        if str(target).endswith('.safetensors'):
            _safetensors().save_file(
                {key: value.contiguous() for key, value in weights.items()}, part, meta
            )
        else:
            torch.save(dict(meta=meta, state_dict=weights), part)


def _find_reader(path: str, address: str) -> Callable[[str], object]:
    if os.path.isdir(path):
        raise ValueError(f'{address} cannot be read as a checkpoint: it is a folder.')
    with open(path, 'rb') as file:
        start = file.read(9)
    if not start:
        raise ValueError(f'{address} cannot be read as a checkpoint: it is empty.')
    if start[8:] == b'{':  # safetensors: eight bytes of length, then JSON
        return _read_safetensors
    if start[:1] == b'\x80':  # torch.save before 1.6: pickles
        return _read_torch
    if start.startswith(b'PK'):
        if not zipfile.is_zipfile(path):
            raise ValueError(
                f'{address} cannot be read as a checkpoint: it was cut off while it was '
                'written or downloaded.'
            )
        names = zipfile.ZipFile(path).namelist()
        if any(name.endswith('.npy') for name in names):
            return _read_npz
        if any(name.endswith('data.pkl') for name in names):
            return _read_torch
    raise ValueError(
        f'{address} cannot be read as a checkpoint: it is no file of torch.save, no safetensors '
        'and no .npz.'
    )


def _read_safetensors(path: str) -> object:
    return _safetensors().load_file(path)


def _safetensors():
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError(
            'safetensors files need that package: pip install safetensors'
        ) from error
    return safetensors.torch


def _read_npz(path: str) -> object:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def _read_torch(path: str) -> object:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load does not look at the checksums
        if damaged:
            raise ValueError(f'the checksum of {damaged} is wrong, the file is damaged')
    with _stand_ins():
        return torch.load(path, map_location='cpu', weights_only=True)


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Let ``torch.load(weights_only=True)`` meet the stand-ins, and nothing that other
    code has allowed it: mmengine allows ``getattr``, with which a pickle can run code.
    """
    serialization = torch.serialization
    if not hasattr(serialization, 'get_unsafe_globals_in_checkpoint'):
        yield  # torch before 2.6 knows no stand-ins
        return
    allowed = serialization.get_safe_globals()
    serialization.clear_safe_globals()
    serialization.add_safe_globals(_skippable())
    try:
        yield
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(allowed)


def _why_refused(error: Exception) -> str:
    text = str(error)
    if match := re.search(r'GLOBAL (\S+\.\w+|\w+) ', text):
        what = f'it holds objects other than weights ({match[1]}), and'
    elif 'allow_pickle' in text:
        what = 'it holds pickled objects beside its arrays, and'
    elif isinstance(error, pickle.UnpicklingError):
        reason = re.search(r'WeightsUnpickler error: (.*)', text)
        why = f' ({reason[1]})' if reason else ''
        what = f'it is damaged{why}, or holds objects other than weights;'
    else:
        return f'it is damaged or was cut off ({text.splitlines()[0] if text else repr(error)}).'
    return (
        f'{what} unpickling could run any code that its author wished. It was refused, and '
        'nothing in it was run. Ask for the weights as safetensors; or, if you trust the file, '
        'save its state dict alone with torch.save.'
    )


def _unwrap(content: object) -> dict[str, Tensor]:
    """The state dict in what was read."""
    while isinstance(content, dict):
        inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), dict)]
        if not inner:
            return {str(key): x for key, x in content.items() if isinstance(x, Tensor)}
        content = inner[0]
    return {}


def _summary(content: object) -> str:
    if isinstance(content, dict):
        return f'a dict with {list(content)[:5]}'
    return f'a {type(content).__name__}'
