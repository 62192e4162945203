"""A folder with COCO annotations: what it holds, found by the usual names, and checked."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from mlp_backbones.engine.data_check import category_names

from .problems import ImageFile, Problem, look_at, raise_errors, wrong_size
from .splits import SPLITS, check_folder, draw, split_of, table, write

LISTS = ('images', 'annotations', 'categories')
LOOKED_AT = 200  # images of each part, or up to twice as many, by their headers
# Files of COCO and others that hold something else than objects.
OTHERS = {'captions', 'keypoints', 'panoptic', 'stuff', 'info', 'densepose', 'deblurred'}


@dataclass
class Part:
    """The training, validation or test part of a data set."""

    ann_file: Path
    img_dir: Path
    content: dict = field(repr=False)

    @property
    def count(self) -> int:
        return len(self.content['images'])

    @property
    def objects(self) -> Counter:
        """How many objects there are, by the id of their category."""
        return Counter(x['category_id'] for x in self.content['annotations'])


@dataclass
class CocoFolder:
    """What :func:`find_coco` found."""

    parts: dict[str, Part]
    classes: tuple[str, ...]
    cat_ids: tuple[int, ...]
    has_masks: bool
    warnings: list[Problem] = field(default_factory=list)  # what will be left out, for example

    def table(self) -> str:
        """The classes, in the order of the labels, with how many objects each part has."""
        counts = [part.objects for part in self.parts.values()]
        rows = {
            name: [str(objects[i]) for objects in counts]
            for name, i in zip(self.classes, self.cat_ids, strict=True)
        }
        rows['(images)'] = [str(part.count) for part in self.parts.values()]
        return table('objects of', rows, list(self.parts))


def find_coco(
    folder: str | Path, out: str | Path, val_fraction: float, seed: int, skip_broken: bool = False
) -> CocoFolder:
    """Find the annotations of a folder and the images that they are of.

    The files are ``annotations/*.json``, ``*.json`` or ``<part>/*.json``, each of the part that
    its name or its folder's tells: ``annotations/instances_train2017.json``,
    ``valid/_annotations.coco.json``. Without one for validation, a part of the training
    images is taken, the same each time.

    Args:
        folder: The data set.
        out: Where to write the two files of a data set that had to be divided.
        val_fraction: How much of it then goes to validation, above 0 and below 1.
        seed: What decides which images do.
        skip_broken: Only warn of training images that are missing or cannot be read.

    Raises:
        FileNotFoundError: no annotations, or images that they name and that are not there.
        ValueError: annotations that are broken, contradictory or ambiguous.
    """
    folder, out = check_folder(folder), Path(out).resolve()
    files = annotation_files(folder, out)
    parts, warnings = {}, []
    for split, path in files.items():
        content, found = read_coco(path)
        if split == 'test' and not content['annotations']:
            continue  # COCO's test images have none
        part_of = 'train' if split == 'all' else split
        images = image_folder(folder, path, content, part_of)
        found += raise_errors(
            look_at_some(path, images, content), skip_broken and part_of == 'train'
        )
        parts[part_of] = Part(complete(path, content, out), images, content)
        warnings += found
    if 'val' not in parts:
        parts.update(divide(parts['train'], out, val_fraction, seed))
    parts = {split: parts[split] for split in SPLITS if split in parts}
    for split in ('train', 'val'):
        if not parts[split].content['annotations']:
            raise ValueError(f'{parts[split].ann_file} has no objects')
    cat_ids, classes = categories(parts)
    return CocoFolder(parts, classes, cat_ids, check_masks(parts), warnings)


def annotation_files(folder: Path, out: Path | None = None) -> dict[str, Path]:
    """One file for each part, none of them in ``out``; for 'all' if there is only one, which names
    no part.
    """
    found: dict[str | None, list[Path]] = {}
    for pattern in ('annotations/*.json', '*.json', '*/*.json'):
        for path in sorted(folder.glob(pattern)):
            words = set(re.findall('[a-z]+', path.stem.lower()))
            known = found.setdefault(split_of(path.relative_to(folder)), [])
            if not words & OTHERS and path not in known and path.parent != out:
                known.append(path)
    chosen = {}
    for split in SPLITS:
        paths = found.get(split, [])
        paths = [path for path in paths if 'instances' in path.stem] or paths
        if len(paths) > 1:
            names = ', '.join(str(path.relative_to(folder)) for path in paths)
            raise ValueError(
                f'{folder} has several annotation files for {split}: {names}; keep one'
            )
        if paths:
            chosen[split] = paths[0]
    if 'train' in chosen:
        return chosen
    rest = [*found.get(None, []), *chosen.values()]
    if len(rest) > 1:
        rest = [path for path in rest if has_categories(path)]
    if len(rest) == 1:
        return {'all': rest[0]}
    names = ', '.join(str(path.relative_to(folder)) for path in rest) or 'none'
    raise (ValueError if rest else FileNotFoundError)(
        f'{folder} has no annotations for training: it needs a COCO file named '
        'annotations/*train*.json, *train*.json or train/*.json, or a single one, which is then '
        f'divided; it has: {names}'
    )


def has_categories(path: Path) -> bool:
    try:
        return bool(category_names(path))
    except ValueError:
        return False


def read_coco(path: Path) -> tuple[dict, list[Problem]]:
    """The content of a COCO file, and what mmdet will leave out of it.

    Raises:
        ValueError: with the file and the entry, if what it says cannot be used.
    """
    content = load(path)
    return content, raise_errors(check_coco(path, content))


def load(path: Path) -> dict:
    """Read a file of lists of entries; those that it does not have are empty.

    Raises:
        ValueError: it is not such a file.
    """
    try:
        with path.open(encoding='utf-8') as file:
            content = json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} is not valid JSON: {error}') from error
    if not isinstance(content, dict) or not isinstance(content.get('images'), list):
        raise ValueError(f'{path} is not a COCO file: it has no list "images"')
    for key in LISTS:
        entries = content.setdefault(key, [])
        if not isinstance(entries, list) or not all(isinstance(x, dict) for x in entries):
            raise ValueError(f'{path}: "{key}" is not a list of entries')
    return content


def check_coco(path: Path, content: dict) -> Iterator[Problem]:
    """What is wrong with the entries of a COCO file."""

    def problem(kind: str, text: str, is_error: bool = True) -> Problem:
        return Problem(kind, str(path), f'{path}: {text}', is_error)

    for key in LISTS:
        for i, count in Counter(as_id(x.get('id')) for x in content[key]).items():
            if i is None:
                yield problem('entry without id', f'{count} of the {key} have no id')
            elif count > 1:
                yield problem('id twice', f'{count} of the {key} have the id {i}')
    for name, count in Counter(str(x.get('name')) for x in content['categories']).items():
        if count > 1 or name == 'None':
            yield problem('category name', f'{count} categories have the name {name}')
    for name, count in Counter(str(x.get('file_name')) for x in content['images']).items():
        if name != 'None' and count > 1:
            yield problem('image listed twice', f'{count} images have the file_name {name}')
    for x in content['images']:
        which = f'the image of id {x.get("id")}'
        if not isinstance(x.get('file_name'), str):
            yield problem('image without file_name', f'{which} has no file_name')
        if not (numbers([x.get('width'), x.get('height')]) and x['width'] > 0 < x['height']):
            yield problem('image without size', f'{which} has no width and height')
    images = {as_id(x.get('id')): x for x in content['images']}
    known = dict(image_id=images, category_id={as_id(x.get('id')) for x in content['categories']})
    for x in content['annotations']:
        which = f'the annotation of id {x.get("id")}'
        for key, ids in known.items():
            if as_id(x.get(key)) not in ids:
                to = 'images' if key == 'image_id' else 'categories'
                text = f'{which} has {key} {x.get(key)}, which is none of its {to}'
                yield problem(f'unknown {key}', text)
        box = x.get('bbox')
        if not is_box(box):
            yield problem('no box', f'{which} has no bbox [x, y, w, h], but {box}')
            continue
        image = images.get(as_id(x.get('image_id')), {})
        size = [image.get('width'), image.get('height')]
        if not numbers(size):
            continue
        for kind, text in (*check_box(box, size), *check_mask(x.get('segmentation'), size)):
            yield problem(kind, f'{which} {text}', kind == 'mask of another size')


def as_id(value: Any) -> int | str | None:
    """``value``, or None if it cannot be an id."""
    return value if isinstance(value, (int, str)) else None


def numbers(values: Sequence) -> bool:
    return all(isinstance(x, (int, float)) and isfinite(x) for x in values)


def is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and numbers(value)


def check_box(box: Sequence[float], size: Sequence[int]) -> Iterator[tuple[str, str]]:
    """What mmdet leaves out, or what is beyond an image of this width and height."""
    x, y, w, h = box
    if w < 1 or h < 1:
        yield 'empty box', f'has a bbox of {w:g} x {h:g} pixels: mmdet leaves it out'
    elif min(x + w, size[0]) <= max(x, 0) or min(y + h, size[1]) <= max(y, 0):
        yield 'box outside its image', f'has the bbox {box} in {_by(size)}: mmdet leaves it out'
    elif x < -1 or y < -1 or x + w > size[0] + 1 or y + h > size[1] + 1:
        yield 'box partly outside its image', f'has the bbox {box} in {_by(size)}'


def check_mask(mask: Any, size: Sequence[int]) -> Iterator[tuple[str, str]]:
    """What mmdet ignores, or what does not fit an image of this width and height."""
    if isinstance(mask, dict):
        given = mask.get('size')
        if given != [size[1], size[0]]:
            text = f'has a mask of (height, width) {given}, its image {[size[1], size[0]]}'
            yield 'mask of another size', text
        return
    flat = len(mask or []) - len(polygons(mask))
    if flat:
        yield 'degenerate mask', f'has {flat} of {len(mask)} polygons without 3 points or an area'


def polygons(mask: Any) -> list[list[float]]:
    """The polygons that have an area."""
    lists = [x for x in mask or [] if isinstance(x, list) and len(x) >= 6 and len(x) % 2 == 0]
    return [x for x in lists if numbers(x) and _area(x) > 0]


def _area(polygon: Sequence[float]) -> float:
    """By the shoelace formula."""
    xs, ys = polygon[::2], polygon[1::2]
    turned = zip(xs, ys, [*xs[1:], xs[0]], [*ys[1:], ys[0]], strict=True)
    return abs(sum(x * v - u * y for x, y, u, v in turned)) / 2


def _by(size: Sequence[int]) -> str:
    return f'{size[0]} x {size[1]} pixels'


def complete(path: Path, content: dict, out: Path) -> Path:
    """Give each object what pycocotools needs and some tools leave out. Returns the file, a copy
    below ``out`` if something was missing.
    """
    whole = True
    for x in content['annotations']:
        for key, value in (('area', x['bbox'][2] * x['bbox'][3]), ('iscrowd', 0)):
            if key not in x:
                x[key], whole = value, False
    return path if whole else write(out / f'{path.parent.name}_{path.name}', json.dumps(content))


def image_folder(folder: Path, ann_file: Path, content: dict, split: str) -> Path:
    """Where the images are: beside the annotations, or in a folder of a usual name."""
    named = [
        path
        for pattern in ('*', 'images/*', '*/images')
        for path in sorted(folder.glob(pattern))
        if path.is_dir() and split_of(path.relative_to(folder)) == split
    ]
    tops = [folder / name for name in ('images', 'JPEGImages', 'data')]
    candidates = [ann_file.parent, *named, *tops, folder, ann_file.parent / 'images']
    names = [str(image.get('file_name')) for image in content['images']]
    sample = names[:: max(1, len(names) // 20)]
    return max(candidates, key=lambda path: sum((path / name).is_file() for name in sample))


def look_at_some(path: Path, img_dir: Path, content: dict) -> Iterator[Problem]:
    """Whether the images are there, and whether some of them can be read and have their size."""
    images = content['images']
    missing = [x['file_name'] for x in images if not (img_dir / x['file_name']).is_file()]
    if missing:
        text = f'{len(missing)} of {len(images)} images are not in {img_dir}, such as {missing[0]}'
        yield Problem('missing image', str(path), f'{path}: {text}')
    for image in images[:: max(1, len(images) // LOOKED_AT)]:
        yield from check_image(path, img_dir, image, look_at(img_dir / image['file_name']))


def check_image(path: Path, img_dir: Path, image: dict, seen: ImageFile) -> Iterator[Problem]:
    """What is wrong with an image, or with its size in a COCO file."""
    yield from seen.problems
    size = (image['width'], image['height'])
    yield from wrong_size(img_dir / image['file_name'], seen.size, size, f'{path} says')


def divide(train: Part, out: Path, val_fraction: float, seed: int) -> dict[str, Part]:
    """Two parts of the images, written to ``out``; the same for the same seed."""
    drawn = draw([x['file_name'] for x in train.content['images']], val_fraction, seed)
    parts = {}
    for split, names in drawn.items():
        of = {*names}
        chosen = [x for x in train.content['images'] if x['file_name'] in of]
        ids = {x['id'] for x in chosen}
        of_these = [x for x in train.content['annotations'] if x['image_id'] in ids]
        content = dict(train.content, images=chosen, annotations=of_these)
        path = write(out / f'{split}.json', json.dumps(content))
        parts[split] = Part(path, train.img_dir, content)
    return parts


def categories(parts: dict[str, Part]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Ids and names of the classes, in the order of the file, which is that of mmdet's labels.

    The first category of Roboflow's files only stands for their project: it has no objects, and
    the others name it as their ``supercategory``.
    """
    listed = {
        split: [(x['id'], x['name'], x.get('supercategory')) for x in part.content['categories']]
        for split, part in parts.items()
    }
    used = set().union(*(part.objects for part in parts.values()))
    roots = {above for _, name, above in listed['train'] if above != name}
    kept = {
        split: [(i, name) for i, name, _ in rows if i in used or name not in roots]
        for split, rows in listed.items()
    }
    for split, rows in kept.items():
        if rows != kept['train']:
            raise ValueError(
                f'{parts[split].ann_file} has other categories than {parts["train"].ann_file}, or '
                f'the same ones in another order: {_short(rows)} and {_short(kept["train"])}. '
                'Labels would be mixed up; write both files from one list.'
            )
    ids, names = zip(*kept['train'], strict=True)
    return ids, names


def _short(rows: list) -> str:
    return ', '.join(f'{i} {name}' for i, name in rows[:4]) + (', ...' if len(rows) > 4 else '')


def check_masks(parts: dict[str, Part]) -> bool:
    """Whether the objects have masks.

    Raises:
        ValueError: only some of them have.
    """
    without: dict[bool, tuple[Path, int]] = {}
    for part in parts.values():
        for x in part.content['annotations']:
            without.setdefault(not x.get('segmentation'), (part.ann_file, x.get('id')))
    if len(without) == 2:
        path, i = without[True]
        raise ValueError(
            f'{path}: the annotation of id {i} has no segmentation, but others have one; give all '
            'objects masks, or none'
        )
    return False in without
