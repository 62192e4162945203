"""A folder with images and label maps: what it holds, found by the usual names, and checked."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from .problems import BROKEN, MAP_OF_ANOTHER_SIZE, Problem, look_at, raise_errors, wrong_size
from .splits import SPLITS, check_folder, draw, split_of, table, write

IMAGES = ('images', 'img_dir', 'image', 'imgs', 'JPEGImages')
MAPS = ('annotations', 'ann_dir', 'masks', 'labels', 'annotation', 'mask', 'SegmentationClass')
NAMES = ('classes.txt', 'class_names.txt', 'names.txt', 'labels.txt')
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
IGNORE = 255
# A line of the file of names for a label that is not to be learned.
NOT_LEARNED = 'ignore'
LOOKED_AT = 1000  # label maps of each part


@dataclass
class MaskPart:
    """The training, validation or test part of a data set."""

    img_dir: Path
    ann_dir: Path
    names: list[str]  # of the images below img_dir, without img_suffix
    ann_file: Path | None = None  # of the names, if they are not all that is there

    @property
    def count(self) -> int:
        return len(self.names)


@dataclass
class MaskFolder:
    """What :func:`find_masks` found."""

    parts: dict[str, MaskPart]
    classes: tuple[str, ...]
    labels: list[int]  # the class of each label of the files, 255 for those not learned
    palette: list[list[int]] | None
    img_suffix: str
    seg_map_suffix: str
    pixels: dict[str, np.ndarray]  # of each class and part, in the label maps looked at
    warnings: list[Problem] = field(default_factory=list)

    def table(self) -> str:
        """The classes, in the order of the labels, with their share of each part's pixels."""
        shares = [100 * n / max(1, n.sum()) for n in self.pixels.values()]
        rows = {
            name: [f'{share[i]:.2f}' for share in shares] for i, name in enumerate(self.classes)
        }
        rows['(images)'] = [str(part.count) for part in self.parts.values()]
        return table('% of pixels', rows, list(self.parts))


def find_masks(
    folder: str | Path, out: str | Path, val_fraction: float, seed: int, skip_broken: bool = False
) -> MaskFolder:
    """Find the images of a folder, their label maps, and the names of the classes.

    Images lie in ``images/`` and label maps in ``annotations/`` (or ``img_dir/`` and ``ann_dir/``,
    ``masks/``, ...), with folders of the same part in both (``training``, ``val``, ...), or
    without: then, as without a part for validation, one is drawn by lot, the same each time.
    ``train/images`` and ``train/masks`` are found, too.

    A label map has one channel and the name of its image, with or without a suffix. The file
    ``classes.txt`` names label 0 in its first line, label 1 in the second, and so on; a line
    ``ignore`` stands for a label that is not learned, as 255 never is. Without that file,
    label maps with a palette are taken as they are, and their classes have numbers for names.

    Args:
        folder: The data set.
        out: Where to write the lists of names of a part that had to be divided.
        val_fraction: How much of it then goes to validation, above 0 and below 1.
        seed: What decides which images do.
        skip_broken: Only warn of training images and label maps that cannot be read, and of
            label maps that have another size than their image.

    Raises:
        FileNotFoundError: no images, no label maps, or images without one.
        ValueError: label maps that cannot be read, that have other sizes than their images or
            labels without a name, or images of several kinds.
    """
    folder, out = check_folder(folder), Path(out).resolve()
    dirs = find_dirs(folder)
    images = {split: list_images(img_dir) for split, (img_dir, _) in dirs.items()}
    suffixes = Counter(path.suffix for paths in images.values() for path in paths)
    if len(suffixes) > 1:
        raise ValueError(
            f'the images of {folder} end in {", ".join(suffixes)}; mmseg takes one kind: convert'
        )
    (img_suffix,) = suffixes
    parts = {
        split: MaskPart(
            *dirs[split],
            [str(path.relative_to(dirs[split][0]))[: -len(img_suffix)] for path in paths],
        )
        for split, paths in images.items()
    }
    seg_map_suffix, missing = find_suffix(parts)
    if missing:
        raise FileNotFoundError(f'{len(missing)} images have no label map, such as {missing[0]}')
    if 'val' not in parts:
        train = parts.pop('all', None) or parts.pop('train')
        for split, names in draw(train.names, val_fraction, seed).items():
            path = write(out / f'{split}.txt', '\n'.join(names) + '\n')
            parts[split] = MaskPart(train.img_dir, train.ann_dir, names, path)
    parts = {split: parts[split] for split in SPLITS if split in parts}

    counted = {
        split: count_labels(part, img_suffix, seg_map_suffix, skip_broken and split == 'train')
        for split, part in parts.items()
    }
    where = {label: path for _, files, _ in counted.values() for label, path in files.items()}
    classes, labels, palette = find_classes(folder, parts['train'], seg_map_suffix, where)
    pixels = {split: np.zeros(len(classes), int) for split in parts}
    for split, (counts, *_) in counted.items():
        for label, count in counts.items():
            if label < len(labels) and labels[label] != IGNORE:
                pixels[split][labels[label]] += count
    warnings = [problem for *_, found in counted.values() for problem in found]
    return MaskFolder(
        parts, classes, labels, palette, img_suffix, seg_map_suffix, pixels, warnings
    )


def find_dirs(folder: Path) -> dict[str, tuple[Path, Path]]:
    """The folders of images and label maps of each part; of 'all' if there are no parts."""
    for top in (folder, *sorted(x for x in folder.iterdir() if x.is_dir())):
        for img_root in (top / name for name in IMAGES):
            for ann_root in (top / name for name in MAPS):
                if not (img_root.is_dir() and ann_root.is_dir()):
                    continue
                if top == folder:
                    pairs = in_parts(img_root), in_parts(ann_root)
                    common = {split: (d, pairs[1].get(split)) for split, d in pairs[0].items()}
                    if 'train' not in common:
                        return dict(all=(img_root, ann_root))
                else:  # train/images, train/masks
                    common = {
                        split: (d / img_root.name, d / ann_root.name)
                        for split, d in in_parts(folder).items()
                    }
                # a test part may have no label maps
                whole = {s: p for s, p in common.items() if p[1] is not None and p[1].is_dir()}
                lacking = sorted({*common} - {*whole, 'test'})
                if 'train' in whole and not lacking:
                    return whole
                if lacking:
                    raise FileNotFoundError(
                        f'{common[lacking[0]][0]} has no folder of label maps beside it'
                    )
    raise FileNotFoundError(
        f'{folder} has no images and label maps: they are looked for in {" or ".join(IMAGES)} and '
        f'{" or ".join(MAPS)}'
    )


def in_parts(root: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(x for x in root.iterdir() if x.is_dir()):
        split = split_of(Path(path.name))
        if split in found:
            raise ValueError(f'{root} has {found[split].name} and {path.name}, both for {split}')
        if split:
            found[split] = path
    return found


def list_images(folder: Path) -> list[Path]:
    paths = sorted(x for x in folder.rglob('*') if x.suffix.lower() in SUFFIXES)
    if not paths:
        raise FileNotFoundError(f'{folder} has no images')
    return paths


def find_suffix(parts: dict[str, MaskPart]) -> tuple[str, list[str]]:
    """The suffix that label maps add to the name of their image, and the label maps that are
    missing.
    """
    first = next(iter(parts.values()))
    files = [str(x) for x in first.ann_dir.rglob('*') if x.suffix.lower() in SUFFIXES]
    for name in first.names:
        start = str(first.ann_dir / name)
        endings = {file[len(start) :] for file in files if file.startswith(start)}
        if endings:
            break
    else:
        start = first.ann_dir / first.names[0]
        raise FileNotFoundError(
            f'{first.img_dir / first.names[0]}.*: there is no label map {start}*'
        )
    missing = {
        ending: [
            f'{part.ann_dir / name}{ending}'
            for part in parts.values()
            for name in part.names
            if not os.path.isfile(f'{part.ann_dir / name}{ending}')
        ]
        for ending in sorted(endings, key=len)
    }
    best = min(missing, key=lambda ending: len(missing[ending]))
    return best, missing[best]


def count_labels(
    part: MaskPart, img_suffix: str, seg_map_suffix: str, skip_broken: bool = False
) -> tuple[dict[int, int], dict[int, Path], list[Problem]]:
    """How many pixels have each label, a file that has it, and warnings, of some label maps.

    Raises:
        ValueError, FileNotFoundError: one cannot be used.
    """
    counts: Counter = Counter()
    where: dict[int, Path] = {}
    warnings = []
    step = -(-len(part.names) // LOOKED_AT)
    for name in part.names[::step]:
        path = part.ann_dir / f'{name}{seg_map_suffix}'
        image = look_at(part.img_dir / f'{name}{img_suffix}')
        labels, problems = look_at_map(path, image.size)
        warnings += raise_errors([*image.problems, *problems], skip_broken)
        counts.update(labels)
        where.update((label, path) for label in labels.keys() - where.keys())
    return dict(counts), where, warnings


def look_at_map(path: Path, size: tuple[int, int] | None) -> tuple[dict[int, int], list[Problem]]:
    """How many pixels of a label map have each label, and what is wrong with it.

    Args:
        path: The label map.
        size: The width and height of its image, if they are known.
    """
    file = str(path)
    if not path.is_file():
        return {}, [Problem('missing label map', file, f'{file} does not exist')]
    try:
        with Image.open(path) as label_map:
            labels = np.asarray(label_map)
    except BROKEN as error:
        return {}, [Problem('unreadable label map', file, f'{file} cannot be read: {error}')]
    if labels.ndim != 2:
        text = (
            f'{file} is a picture of {labels.shape[2]} channels; a label map has one, with the '
            'number of a class in each pixel'
        )
        return {}, [Problem('label map of several channels', file, text)]
    found = labels.shape[::-1]
    problems = list(wrong_size(path, found, size, 'its image', MAP_OF_ANOTHER_SIZE))
    values, counts = np.unique(labels, return_counts=True)
    if {*values.tolist()} == {IGNORE}:
        problems.append(Problem('nothing to learn', file, f'{file} has 255 everywhere', False))
    return dict(zip(values.tolist(), counts.tolist(), strict=True)), problems


def find_classes(
    folder: Path, train: MaskPart, seg_map_suffix: str, where: Mapping[int, Path]
) -> tuple[tuple[str, ...], list[int], list[list[int]] | None]:
    """Names, the class of each label, and colours if the label maps have them.

    Args:
        folder: The data set.
        train: Its training part.
        seg_map_suffix: What label maps add to the name of their image.
        where: The labels that were seen, with a file of each.
    """
    names, source, colours = read_names(folder, train, seg_map_suffix, [*where])
    beyond = sorted(label for label in where if label >= len(names) and label != IGNORE)
    if beyond:
        raise ValueError(
            f'{where[beyond[0]]} has label {beyond[0]}, which {source} does not name: it has '
            f'{len(names)} lines, for labels 0 to {len(names) - 1}. A line "{NOT_LEARNED}" stands '
            'for a label that is not to be learned.'
        )
    classes, labels, palette = learned_classes(names, colours)
    if len(classes) < 2:
        raise ValueError(f'{len(classes)} class is named in {source}; two or more are needed')
    return classes, labels, palette


def learned_classes(
    names: Sequence[str], colours: Sequence[int] | None
) -> tuple[tuple[str, ...], list[int], list[list[int]] | None]:
    """The names of those labels that are learned, the class of each label, and their colours."""
    learned = [i for i, name in enumerate(names) if name != NOT_LEARNED]
    labels = [learned.index(i) if i in learned else IGNORE for i in range(len(names))]
    palette = colours and np.resize(np.array(colours, int), (256, 3))[learned].tolist()
    return tuple(names[i] for i in learned), labels, palette


def read_names(
    folder: Path, train: MaskPart, seg_map_suffix: str, seen: Sequence[int]
) -> tuple[list[str], Path, list[int] | None]:
    """The name of each label, the file that says so, and the colours of the label maps."""
    first, colours = read_palette(train, seg_map_suffix)
    seen = sorted(label for label in seen if label != IGNORE)
    tops = (folder, train.ann_dir, train.ann_dir.parent)
    files = [top / name for top in tops for name in NAMES if (top / name).is_file()]
    if files:
        names = [line.strip() for line in files[0].read_text(encoding='utf-8').splitlines()]
        while names and not names[-1]:
            names.pop()
        twice = [name for name, n in Counter(names).items() if n > 1 and name != NOT_LEARNED]
        if twice or '' in names:
            raise ValueError(f'{files[0]}: a line is empty, or names stand twice: {twice}')
        return names, files[0], colours
    if colours:
        return [f'class {i}' for i in range(seen[-1] + 1)], first, colours
    raise FileNotFoundError(
        f'{folder} has no {NAMES[0]}: write the names of the labels into it, one a line, from '
        f'label 0 on; the label maps have {_short(seen)}. A line "{NOT_LEARNED}" stands for a '
        'label that is not to be learned.'
    )


def read_palette(train: MaskPart, seg_map_suffix: str) -> tuple[Path, list[int] | None]:
    """The first label map that can be read, and its colours if it has any."""
    for name in train.names:
        path = train.ann_dir / f'{name}{seg_map_suffix}'
        try:
            with Image.open(path) as file:
                return path, file.getpalette() if file.mode == 'P' else None
        except BROKEN:
            continue
    raise ValueError(f'no label map of {train.ann_dir} can be read')


def _short(labels: list[int]) -> str:
    shown = ', '.join(map(str, labels[:12]))
    return shown + (f', ... {labels[-1]}' if len(labels) > 12 else '')
