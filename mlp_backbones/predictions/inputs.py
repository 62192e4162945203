"""The images and videos that a command line means."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import mmcv
import numpy as np
from PIL import Image

from mlp_backbones.data.coco import as_id, image_folder, load
from mlp_backbones.data.masks import SUFFIXES as IMAGES
from mlp_backbones.data.problems import BROKEN, Problem, look_at
from mlp_backbones.data.splits import SPLITS
from mlp_backbones.spelling import did_you_mean_file

VIDEOS = ('.mp4', '.mov', '.avi', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv')
FILES = f'an image ({", ".join(IMAGES)}), a video ({", ".join(VIDEOS)})'


@dataclass(frozen=True)
class Input:
    """One image or video.

    Args:
        path: Where it is.
        name: Its path below the folder that all inputs have in common; outputs are named after it.
        id: The id that a COCO file gives it.
    """

    path: Path
    name: str
    id: int | str | None = None

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEOS


@dataclass(frozen=True)
class Inputs:
    """All of them, and the categories of the COCO file that lists them, by name."""

    files: tuple[Input, ...]
    categories: dict[str, int | str] | None = None


def find_inputs(
    given: Sequence[str | Path], out: Path, img_dir: str | Path | None = None
) -> Inputs:
    """Find the images and videos that are given.

    Args:
        given: Images, videos, folders with either, patterns (``'day?/**/*.jpg'``), or one COCO
            file, whose annotations are not read.
        out: The folder of the results, in which nothing is looked for.
        img_dir: Where the images of a COCO file are. Default: beside it, or in a folder of a
            usual name.

    Raises:
        FileNotFoundError: one of them does not exist, or holds no image and no video.
        ValueError: one is of another kind, or a COCO file is not the only one.
    """
    given = [str(x) for x in given]
    coco = [x for x in given if x.lower().endswith('.json')]
    if coco and len(given) > 1:
        raise ValueError(
            f'{coco[0]} gives its images the ids of the results: give it alone, not with '
            f'{len(given) - 1} more'
        )
    if coco:
        return _of_coco(Path(coco[0]), img_dir)
    if img_dir is not None:
        raise ValueError(f'--img-dir {img_dir} is for the images of a COCO JSON; none is given')
    found: dict[Path, Path] = {}  # the folder that each is found in
    for text in given:
        for path, folder in _expand(text, out.resolve()):
            found.setdefault(path, folder)
    top = Path(os.path.commonpath(found.values())) if found else Path()
    return Inputs(tuple(Input(path, path.relative_to(top).as_posix()) for path in found))


def _expand(text: str, out: Path) -> Iterator[tuple[Path, Path]]:
    """The files that a path or a pattern means, each with the folder that names start from."""
    path = Path(text)
    if path.is_dir():
        found = sorted(x.absolute() for x in path.rglob('*') if _is_wanted(x, out))
        if not found:
            raise FileNotFoundError(
                f'{text} has no images and no videos: none of its files is {FILES}'
            )
        yield from ((x, path.absolute()) for x in found)
    elif path.is_file():
        if path.suffix.lower() not in (*IMAGES, *VIDEOS):
            raise ValueError(f'{text} is not {FILES}, a folder or a COCO JSON')
        yield path.absolute(), path.absolute().parent
    elif glob.has_magic(text):
        found = sorted(Path(x).absolute() for x in glob.glob(text, recursive=True))
        found = [x for x in found if _is_wanted(x, out)]
        if not found:
            raise FileNotFoundError(f'no image and no video matches {text}')
        fixed = takewhile(lambda part: not glob.has_magic(part), Path(text).parts)
        folder = Path(*fixed).absolute()
        yield from ((x, folder) for x in found)
    else:
        raise FileNotFoundError(f'there is no {text}{did_you_mean_file(text)}')


def _is_wanted(path: Path, out: Path) -> bool:
    """Whether it is an image or a video, neither hidden nor one of the results."""
    return (
        path.suffix.lower() in (*IMAGES, *VIDEOS)
        and not path.name.startswith('.')
        and path.is_file()
        and not path.resolve().is_relative_to(out)
    )


def _of_coco(path: Path, img_dir: str | Path | None) -> Inputs:
    if not path.is_file():
        raise FileNotFoundError(f'there is no {path}{did_you_mean_file(str(path))}')
    content = load(path)
    images = content['images']
    if not images:
        raise FileNotFoundError(f'{path} lists no images')
    for key in ('file_name', 'id'):
        lacking = next((x for x in images if x.get(key) is None), None)
        if lacking is not None:
            raise ValueError(f'{path}: an image has no {key}: {lacking}')
    ids = [as_id(x['id']) for x in images]
    if len(set(ids)) < len(ids):
        raise ValueError(f'{path}: two images have the same id')
    folder = Path(img_dir) if img_dir else _find_images(path, content)
    files = []
    for image, number in zip(images, ids, strict=True):
        name = Path(os.path.normpath(image['file_name']))
        if name.is_absolute() or '..' in name.parts:
            raise ValueError(f'{path}: file_name {image["file_name"]} is not below {folder}')
        files.append(Input((folder / name).absolute(), name.as_posix(), number))
    if not any(x.path.is_file() for x in files):
        raise FileNotFoundError(
            f'none of the {len(files)} images of {path} is in {folder}; give their folder with '
            '--img-dir'
        )
    categories = {str(x.get('name')): as_id(x.get('id')) for x in content['categories']}
    return Inputs(tuple(files), categories or None)


def _find_images(path: Path, content: dict) -> Path:
    """The folder, of a usual name, that has most of a COCO file's images."""
    names = [str(x['file_name']) for x in content['images']]
    sample = names[:: max(1, len(names) // 20)]
    found = [image_folder(path.parent.parent, path, content, split) for split in SPLITS]
    return max(found, key=lambda folder: sum((folder / name).is_file() for name in sample))


def read_image(path: Path) -> tuple[np.ndarray, tuple[Problem, ...]]:
    """The pixels (H, W, 3), BGR, as a test pipeline reads them, and what is odd about the file.

    Raises:
        ValueError: it cannot be read as a whole.
    """
    problems = look_at(path).problems
    for problem in problems:
        if problem.is_error:
            raise ValueError(problem.text)
    try:
        with Image.open(path) as image:
            image.load()  # OpenCV fills what is missing with grey, without a word
    except BROKEN as error:
        raise ValueError(f'{path} cannot be read: {error}') from error
    return mmcv.imread(str(path)), problems
