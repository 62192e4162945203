"""What every kind of data folder has: parts, found by name or drawn at random, and a table."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlp_backbones.checkpoints.files import replacing

SPLITS = dict(
    train=('train', 'training'),
    val=('val', 'valid', 'validation', 'dev'),
    test=('test', 'testing'),
)


def check_folder(folder: str | Path) -> Path:
    """Its whole path.

    Raises:
        FileNotFoundError: there is none.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f'there is no folder {folder}')
    return folder


def split_of(path: Path) -> str | None:
    """The part of a data set that a path in its folder is of, by its name or its folder's."""
    for name in (path.stem, path.parent.name):
        words = re.findall('[a-z]+', name.lower())
        for split, names in SPLITS.items():
            if any(word in names for word in words):
                return split
    return None


def draw(names: Sequence[str], val_fraction: float, seed: int) -> dict[str, list[str]]:
    """Divide images, by name, into those for training and for validation.

    Raises:
        ValueError: a fraction that is not above 0 and below 1, or fewer than two images.
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f'val_fraction={val_fraction} must be above 0 and below 1')
    if len(names) < 2:
        raise ValueError(f'{len(names)} image(s) cannot be divided; two are needed')
    names = sorted(names)
    random.Random(seed).shuffle(names)
    count = min(max(1, round(val_fraction * len(names))), len(names) - 1)
    return dict(train=names[count:], val=names[:count])


def write(path: Path, text: str) -> Path:
    """Write a file, whole or not at all: every process of a distributed run does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        Path(part).write_text(text, encoding='utf-8')
    return path


def table(title: str, rows: Mapping[str, Sequence[str]], parts: Sequence[str]) -> str:
    """A line for each row, with a column for each part."""
    width = max(map(len, (title, *rows)))
    lines = {title: parts, **rows}
    return '\n'.join(
        f'{name:<{width}}' + ''.join(f'{value:>9}' for value in values)
        for name, values in lines.items()
    )
