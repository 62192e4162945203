"""Reading weights from files and addresses, without running code that lies in them.

The format is recognised by the content: a file of ``torch.save`` (.pth, .bin), safetensors, or
numpy's .npz.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier, get_rank
from mmengine.fileio import get_local_path
from mmengine.logging import print_log
from torch import Tensor

from .own_weights import SCHEME, digest, locate
from .stand_ins import plain, stand_ins

MOST_EXPANDED = 20  # times its size that a compressed file may become, beyond 1 GiB
META = 'mlp_backbones'  # what safetensors' meta data call ours
SUFFIXES = ('.pth', '.safetensors')  # of what is written
TIMEOUT = 30  # seconds without an answer
# Where training programs put the weights in a checkpoint; averaged ones come first, as in timm.
WRAPPERS = ('state_dict_ema', 'model_ema', 'state_dict', 'model', 'module')
# What wrappers of modules put into the names of the weights: torch.compile, FSDP, checkpointing.
INFIXES = re.compile(r'\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.')


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that does not fit."""


def read_checkpoint(address: str) -> dict:
    """All that a checkpoint holds, as tensors and plain values; nothing in it is run.

    Beside Python's own values that is what :mod:`.stand_ins` names: numpy's arrays and numbers,
    mmengine's ``HistoryBuffer``, options as dicts.

    Args:
        address: A path, or an address such as ``https://...``, which is downloaded once.

    Raises:
        FileNotFoundError: if there is no such file.
        ConnectionError: if the address cannot be reached.
        ImportError: for safetensors, if that package is not installed.
        CheckpointError: if it is no whole checkpoint, or holds objects of other classes.
    """
    with local_file(address) as path:
        reader = _find_reader(path, address)
        try:
            content = reader(path)
        except ImportError:
            raise
        except Exception as error:  # a damaged file fails in a dozen ways
            reason = _why_refused(error)
            raise CheckpointError(f'{address} cannot be read as a checkpoint: {reason}') from error
    if not find_weights(content):
        raise CheckpointError(
            f'{address} is not a checkpoint: instead of weights it holds {_summary(content)}.'
        )
    return content


def read_weights(address: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint by their names, see :func:`read_checkpoint`."""
    return find_weights(read_checkpoint(address))


@contextmanager
def local_file(address: str) -> Iterator[str]:
    """A local copy of ``address``; downloads of http(s) are kept with those of torch.hub."""
    if address.startswith(SCHEME):
        place, expected = locate(address)
        with local_file(place) as path:
            if digest(path) != expected:
                raise CheckpointError(
                    f'{address}: the SHA-256 of {path} is not {expected}: the file is of '
                    'another version, or damaged. Remove it and fetch it again.'
                )
            yield path
    elif '://' not in address:
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
            if source.headers.get_content_type() == 'text/html':
                raise _web_page(url)
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


def _web_page(address: str) -> CheckpointError:
    return CheckpointError(
        f'{address} is a web page (HTML), not a checkpoint. Google Drive and SharePoint send one '
        'instead of the file: open the address in a browser, download the file by hand, and '
        'give its path.'
    )


@contextmanager
def replacing(target: str | Path) -> Iterator[str]:
    """A new file beside ``target`` that replaces it once the block has succeeded."""
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
    folder = os.open(target.parent, os.O_RDONLY)  # its list of names, so that a crash keeps it
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check_target(target: str) -> Path:
    """``target`` as a path that :func:`write_weights` can write.

    Raises:
        ValueError: if its suffix is not one of those, or if it is a folder.
    """
    path = Path(target)
    if path.suffix not in SUFFIXES:
        raise ValueError(f'{path} must end in {" or ".join(SUFFIXES)}.')
    if path.is_dir():
        raise ValueError(f'{path} is a folder.')
    return path


def write_weights(target: str | Path, weights: dict[str, Tensor], meta: dict) -> None:
    """Write a checkpoint, whole or not at all: safetensors, or by ``torch.save``. Its folder is
    made if need be.

    Args:
        target: Its path.
        weights: Tensors by name.
        meta: Plain values; in safetensors, whose own meta data are texts, as JSON.
    """
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as part:
        if str(target).endswith('.safetensors'):
            _safetensors().save_file(
                {key: value.contiguous() for key, value in weights.items()},
                part,
                {META: json.dumps(meta)},
            )
        else:
            torch.save(dict(meta=meta, state_dict=weights), part)


def _find_reader(path: str, address: str) -> Callable[[str], object]:
    if os.path.isdir(path):
        raise CheckpointError(f'{address} cannot be read as a checkpoint: it is a folder.')
    with open(path, 'rb') as file:
        start = file.read(9)
    if not start:
        raise CheckpointError(f'{address} cannot be read as a checkpoint: it is empty.')
    if start.lstrip()[:5].lower() in (b'<!doc', b'<html'):
        raise _web_page(address)
    if start[8:] == b'{':  # safetensors: eight bytes of length, then JSON
        return _read_safetensors
    if start[:1] == b'\x80':  # torch.save before 1.6: pickles
        return _read_torch
    if start.startswith(b'PK'):
        if not zipfile.is_zipfile(path):
            raise CheckpointError(
                f'{address} cannot be read as a checkpoint: it was cut off while it was '
                'written or downloaded.'
            )
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            size = sum(item.file_size for item in archive.infolist())
        if size > max(MOST_EXPANDED * os.path.getsize(path), 2**30):
            raise CheckpointError(
                f'{address} cannot be read as a checkpoint: its {os.path.getsize(path)} bytes '
                f'unpack to {size}, more than any checkpoint does.'
            )
        if any(name.endswith('.npy') for name in names):
            return _read_npz
        if any(name.endswith('data.pkl') for name in names):
            return _read_torch
    raise CheckpointError(
        f'{address} cannot be read as a checkpoint: it is not a file of torch.save, '
        'safetensors or numpy (.npz).'
    )


def _read_safetensors(path: str) -> object:
    with _safetensors().safe_open(path, framework='pt') as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}
        meta = file.metadata() or {}
    return dict(meta=json.loads(meta[META]), state_dict=weights) if META in meta else weights


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
    with stand_ins():
        return plain(torch.load(path, map_location='cpu', weights_only=True))


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
        why = text.splitlines()[0] if text else repr(error)
        return f'it is damaged, or was cut off ({why}).'
    return (
        f'{what} unpickling could run any code that its author wished. It was refused, and '
        'nothing in it was run. Ask for the weights as safetensors; or, if you trust the file, '
        'save its state dict alone with torch.save.'
    )


def refuse_not_finite(weights: Mapping[str, Tensor], whose: str) -> None:
    """Raise CheckpointError if a weight has NaN or infinite values; the error starts ``whose``."""
    # one number tells of any that is not finite, but may overflow itself
    bad = [
        name
        for name, value in weights.items()
        if not value.sum().isfinite() and not value.isfinite().all()
    ]
    if bad:
        raise CheckpointError(
            f'{whose}: {len(bad)} weights hold NaN or infinite values: {some(bad)}.'
        )


def wrong_shape(key: str, value: Tensor, param: Tensor, of_grid: bool = False) -> CheckpointError:
    """The error for a weight of another shape than the model's, which loaders that are not strict
    only log.
    """
    square = ' (tokens can be resized if they are a square grid)' if of_grid else ''
    return CheckpointError(
        f'{key}: the checkpoint has shape {tuple(value.shape)}, the model {tuple(param.shape)}; '
        f'build the model with the arguments of the checkpoint{square}, or leave this weight out '
        'of it.'
    )


def some(names: Iterable[str], limit: int = 3) -> str:
    """The first few of ``names``."""
    names = list(names)
    return ', '.join(names[:limit]) + (', ...' if len(names) > limit else '')


def find_weights(content: object) -> dict[str, Tensor]:
    """The state dict in what was read, with the versions of modules that torch keeps in it."""
    while isinstance(content, dict):
        inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), dict)]
        if not inner:
            weights = {str(key): x for key, x in content.items() if isinstance(x, Tensor)}
            weights = OrderedDict((INFIXES.sub('', key), x) for key, x in weights.items())
            versions = getattr(content, '_metadata', None)
            if isinstance(versions, dict):
                weights._metadata = OrderedDict(
                    (INFIXES.sub('', f'{path}.')[:-1], x) for path, x in versions.items()
                )
            return weights
        content = inner[0]
    return {}


def _summary(content: object) -> str:
    if isinstance(content, dict):
        return f'a dict with {list(content)[:5]}'
    return f'a {type(content).__name__}'
