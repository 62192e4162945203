"""What is wrong with a data set, and where; and what can be seen of one image file."""

from __future__ import annotations

import hashlib
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
from PIL import Image

# What Pillow raises at files that are broken in one way or another.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
TURNED = (5, 6, 7, 8)  # orientations of EXIF by which width and height are exchanged


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Args:
        kind: In a few words, the same for all of that kind.
        file: Which file is wrong.
        text: A sentence with the file and the entry.
        is_error: Training fails at it, or learns or measures something wrong; otherwise it is
            silently left out or changed, which may be intended.
    """

    kind: str
    file: str
    text: str
    is_error: bool = True


MAP_OF_ANOTHER_SIZE = 'label map of another size'
# What `--skip-broken` leaves out.
LEFT_OUT = ('missing image', 'empty image file', 'unreadable image', 'truncated image')
LEFT_OUT += ('unreadable label map', MAP_OF_ANOTHER_SIZE)


def raise_errors(problems: Iterable[Problem], skip_broken: bool = False) -> list[Problem]:
    """The warnings among them; and broken images and label maps, if they are to be skipped.

    Raises:
        FileNotFoundError, ValueError: the first error.
    """
    warnings = []
    for problem in problems:
        if problem.is_error and not (skip_broken and problem.kind in LEFT_OUT):
            missing = problem.kind.startswith('missing')
            raise (FileNotFoundError if missing else ValueError)(problem.text)
        warnings.append(problem)
    return warnings


def listing(problems: Iterable[Problem], shown: int = 3) -> str:
    """A line for each kind with how often it is there, and the first ones."""
    kinds: dict[tuple, list[Problem]] = defaultdict(list)
    for problem in problems:
        kinds[not problem.is_error, problem.kind].append(problem)
    lines = []
    for (is_warning, kind), found in sorted(kinds.items()):
        lines.append(f'{"warning" if is_warning else "error"}: {kind}: {len(found)}')
        lines += [f'  {problem.text}' for problem in found[:shown]]
        if len(found) > shown:
            lines.append(f'  ... and {len(found) - shown} more')
    return '\n'.join(lines)


@dataclass(frozen=True)
class ImageFile:
    """What was seen of an image file."""

    problems: tuple[Problem, ...]
    size: tuple[int, int] | None = None  # width and height, as mmcv turns it
    digest: str | None = None  # of its pixels, if they were read


def look_at(path: Path, whole: bool = False) -> ImageFile:
    """See whether an image can be read, by its header or as a ``whole``."""
    file = str(path)

    def problem(kind: str, text: str, is_error: bool = True) -> ImageFile:
        return ImageFile((Problem(kind, file, f'{file} {text}', is_error),))

    if not path.is_file():
        return problem('missing image', 'does not exist')
    if path.stat().st_size == 0:
        return problem('empty image file', 'has no bytes')
    if not cv2.haveImageReader(file):
        return problem('unreadable image', 'is not an image that OpenCV can read')
    digest, largest = None, None
    try:
        with Image.open(path) as image:
            # before getexif, which reads all of a PNG file, and leaves no tiles
            is_16_bit = image.mode[0] in 'IF' or any('16' in str(x[3]) for x in image.tile)
            size = image.size[::-1] if image.getexif().get(274) in TURNED else image.size
            if whole:
                pixels = image.convert('RGB') if not is_16_bit else image
                digest = hashlib.sha1(pixels.tobytes() + repr(size).encode()).hexdigest()
                extrema = image.getextrema() if image.mode[0] in 'IF' else None
                largest = extrema and extrema[1]
    except BROKEN as error:
        kind = 'truncated image' if 'truncated' in str(error).lower() else 'unreadable image'
        return problem(kind, f'cannot be read: {error}')
    if not is_16_bit:
        return ImageFile((), size, digest)
    text = 'has 16 bits a value, of which OpenCV keeps the upper 8'
    if largest:
        text += f': its largest, {largest:g}, becomes {int(largest) >> 8}'
    return ImageFile(problem('16-bit image', text, False).problems, size, digest)


def wrong_size(
    path: Path,
    found: tuple[int, int] | None,
    other: tuple[int, int] | None,
    whose: str,
    kind: str = 'wrong size',
) -> Iterator[Problem]:
    """A problem, if a file has another width and height than something says; None is unknown."""
    if found and other and found != other:
        text = f'{path} has {found[0]} x {found[1]} pixels, {whose} {other[0]} x {other[1]}'
        yield Problem(kind, str(path), text)


def repeated(digests: dict[str, list[tuple[str, Path]]]) -> Iterator[Problem]:
    """Images whose pixels are equal; by their digests, the part and the file of each."""
    for found in digests.values():
        train = [path for part, path in found if part == 'train']
        others = [path for part, path in found if part != 'train']
        if train and others:
            text = f'{others[0]} is the same image as {train[0]}, on which the model is trained'
            yield Problem('a training image in another part', str(others[0]), text)
        elif len(train) > 1:
            text = f'{train[1]} is the same image as {train[0]}'
            yield Problem('the same image twice', str(train[1]), text, False)
