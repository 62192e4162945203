"""``; did you mean ...?``"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The hint with the name that is most like ``name``, or '' if there is none so like."""
    close = get_close_matches(name, {*known} - {name}, n=1, cutoff=cutoff)
    return f'; did you mean {close[0]}?' if close else ''


def did_you_mean_file(path: str | Path) -> str:
    """The same for a file that is not there, among those of its kind near it."""
    path = Path(path)
    folder = next(folder for folder in path.parents if folder.is_dir())
    for depth in range(1 if path.is_absolute() else 3):
        files = list(folder.glob('*/' * depth + '*' + path.suffix))
        close = get_close_matches(path.name, {f.name for f in files}, n=3, cutoff=0.7)
        if close:
            near = [str(f) for name in close for f in files if f.name == name]
            return f'; did you mean {" or ".join(near[:3])}?'
    return ''
