"""Models of the metafiles, by name."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from mmengine.fileio import load

from ..spelling import did_you_mean

FOLDER = Path(__file__).resolve().parents[1] / '.mim'
CLASSIFICATION = 'Image Classification'


@lru_cache
def models() -> dict[str, dict]:
    """The entries of all metafiles that model-index.yml lists, by name.

    Raises:
        FileNotFoundError: if this is not an installation, which comes with them.
    """
    index = FOLDER / 'model-index.yml'
    if not index.is_file():
        raise FileNotFoundError(
            f'{index} does not exist; it comes with an installation, see docs/install.md.'
        )
    files = load(str(index))['Import']
    return {m['Name']: m for file in files for m in load(str(FOLDER / file))['Models']}


def is_classifier(entry: dict) -> bool:
    return any(result['Task'] == CLASSIFICATION for result in entry['Results'])


def is_name(text: str) -> bool:
    """Whether ``text`` is meant as a name, and neither as a path nor as an address."""
    return text.isidentifier() and not os.path.exists(text)


def find_model(name: str) -> tuple[Path, str]:
    """Config and address of the checkpoint of a detector or segmentor.

    Raises:
        FileNotFoundError: if there is none of that name, or this is not an installation.
        ValueError: if its weights are those of a classifier.
    """
    known = {n: m for n, m in models().items() if not is_classifier(m)}
    if name not in known and name in models():
        raise ValueError(
            f'{name} are weights of a classifier, which go into the init_cfg of a backbone: '
            f"dict(type='Pretrained', checkpoint={models()[name]['Weights']!r})."
        )
    if name not in known:
        raise FileNotFoundError(
            f'{name} is neither a file nor a model of docs/model_zoo.md'
            f'{did_you_mean(name, known) or "."}'
        )
    return FOLDER / known[name]['Config'], known[name]['Weights']
