"""Weights of this project by name, ``mlp_backbones://shift_gmlp_nano_tiny_imagenet``.

A checkout has the files in its folder ``weights``. An installed wheel has only their list, with
their checksums; the files then come from where MLP_BACKBONES_WEIGHTS says.
"""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from mmengine.fileio import load

from ..spelling import did_you_mean

SCHEME = 'mlp_backbones://'
FOLDER = Path(__file__).resolve().parents[1] / '.mim' / 'weights'
VARIABLE = 'MLP_BACKBONES_WEIGHTS'  # address or path of a copy of the folder


@lru_cache
def models() -> dict[str, dict]:
    """The entries of the metafile, by name."""
    metafile = FOLDER / 'metafile.yml'
    content = load(str(metafile)) if metafile.is_file() else {}
    return {model['Name']: model for model in content.get('Models', [])}


def locate(address: str) -> tuple[str, str]:
    """Path or address of the file that ``mlp_backbones://NAME`` stands for, and its SHA-256.

    Raises:
        FileNotFoundError: if there are no weights of that name, or their file is not here and
            MLP_BACKBONES_WEIGHTS does not say where it is.
    """
    name = address.removeprefix(SCHEME)
    model = models().get(name)
    if model is None:
        if not models():
            raise FileNotFoundError(
                f'{address}: {FOLDER} has no metafile.yml, the list of the weights, which comes '
                'with an installation (docs/install.md)'
            )
        raise FileNotFoundError(
            f'{address} does not exist{did_you_mean(name, models())}: there are '
            f'{", ".join(models())}'
        )
    file = Path(model['Weights']).name
    elsewhere = os.environ.get(VARIABLE)
    if not elsewhere and not (FOLDER / file).is_file():
        raise FileNotFoundError(
            f'{address}: {FOLDER} has no {file}; an installed package comes without weights. Set '
            f"{VARIABLE} to the address or the path of the project's weights folder."
        )
    place = f'{elsewhere}/{file}' if elsewhere and '://' in elsewhere else None
    return place or str(Path(elsewhere or FOLDER, file)), model['Metadata']['SHA-256']


def init_cfg(name: str) -> dict:
    """What a backbone, ours or another's, starts from to have the weights of that name."""
    # mmengine does not find the prefix for itself, which the backbones of others need
    return dict(type='Pretrained', checkpoint=f'{SCHEME}{name}', prefix='backbone.')


def digest(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
