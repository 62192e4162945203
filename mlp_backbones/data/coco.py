"""A folder with COCO annotations: what it holds, found by the usual names, and checked."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mlp_backbones.engine.data_check import category_names

from .splits import SPLITS, check_folder, draw, split_of, table, write

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

    def table(self) -> str:
        """The classes, in the order of the labels, with how many objects each part has."""
        counts = [part.objects for part in self.parts.values()]
        rows = {
            name: [str(objects[i]) for objects in counts]
            for name, i in zip(self.classes, self.cat_ids, strict=True)
        }
        rows['(images)'] = [str(part.count) for part in self.parts.values()]
        return table('objects of', rows, list(self.parts))


def find_coco(folder: str | Path, out: str | Path, val_fraction: float, seed: int) -> CocoFolder:
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

    Raises:
        FileNotFoundError: no annotations, or images that they name and that are not there.
        ValueError: annotations that are broken, contradict one another, or of which there are too
            many to tell which are meant.
    """
    folder, out = check_folder(folder), Path(out).resolve()
    files = annotation_files(folder, out)
    parts = {}
    for split, path in files.items():
        content = read_coco(path)
        if split == 'test' and not content['annotations']:
            continue  # COCO's test images have none
        part_of = 'train' if split == 'all' else split
        images = image_folder(folder, path, content, part_of)
        parts[part_of] = Part(complete(path, content, out), images, content)
    if 'val' not in parts:
        parts.update(divide(parts['train'], out, val_fraction, seed))
    parts = {split: parts[split] for split in SPLITS if split in parts}
    for split in ('train', 'val'):
        if not parts[split].content['annotations']:
            raise ValueError(f'{parts[split].ann_file} has no objects')
    cat_ids, classes = categories(parts)
    return CocoFolder(parts, classes, cat_ids, check_masks(parts))


def annotation_files(folder: Path, out: Path) -> dict[str, Path]:
    """One file for each part, but none of ``out``; for 'all' if there is only one, of no part."""
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
                f'{folder} has several annotation files for {split}: {names}; leave one'
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
        f'{folder} has no annotations for training: COCO files are looked for as '
        'annotations/*train*.json, *train*.json and train/*.json, or one file alone, which is '
        f'divided; there are: {names}'
    )


def has_categories(path: Path) -> bool:
    try:
        return bool(category_names(path))
    except ValueError:
        return False


def read_coco(path: Path) -> dict:
    """The content of a COCO file, with a check of what it refers to.

    Raises:
        ValueError: with the file, and the entry that is wrong.
    """
    try:
        with path.open(encoding='utf-8') as file:
            content = json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} is no JSON: {error}') from error
    lists = ('images', 'annotations', 'categories')
    if not isinstance(content, dict) or not isinstance(content.get('images'), list):
        raise ValueError(f'{path} is no COCO file: it has no list "images"')
    for key in lists:
        entries = content.setdefault(key, [])
        if not isinstance(entries, list) or not all(isinstance(x, dict) for x in entries):
            raise ValueError(f'{path}: "{key}" is no list of entries')
        ids = Counter(x.get('id') for x in entries)
        twice = [i for i, count in ids.items() if count > 1 or i is None]
        if twice:
            raise ValueError(f'{path}: {len(twice)} of the ids of {key} stand twice: {twice[:3]}')
    names = Counter(x.get('name') for x in content['categories'])
    if not all(isinstance(name, str) and count == 1 for name, count in names.items()):
        raise ValueError(f'{path}: the names of its categories are not different: {list(names)}')
    known = {key: {x['id'] for x in content[key]} for key in lists}
    for image in content['images']:
        if not isinstance(image.get('file_name'), str):
            raise ValueError(f'{path}: the image of id {image["id"]} has no file_name')
        if not (image.get('width', 0) > 0 and image.get('height', 0) > 0):
            raise ValueError(f'{path}: the image of id {image["id"]} has no width and height')
    files = Counter(image['file_name'] for image in content['images'])
    twice = [name for name, count in files.items() if count > 1]
    if twice:
        raise ValueError(f'{path}: {len(twice)} images stand twice, as {twice[0]}')
    for x in content['annotations']:
        for key, to in (('image_id', 'images'), ('category_id', 'categories')):
            if x.get(key) not in known[to]:
                raise ValueError(
                    f'{path}: the annotation of id {x["id"]} has {key} {x.get(key)}, which is '
                    f'none of its {to}'
                )
        box = x.get('bbox')
        if not isinstance(box, list) or len(box) != 4:
            raise ValueError(f'{path}: the annotation of id {x["id"]} has no bbox [x, y, w, h]')
    return content


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
    names = [image['file_name'] for image in content['images']]
    sample = names[:: max(1, len(names) // 20)]
    best = max(candidates, key=lambda path: sum((path / name).is_file() for name in sample))
    missing = [name for name in names if not (best / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f'{ann_file}: {len(missing)} of {len(names)} images are not in {best}, as {missing[0]}'
        )
    return best


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
                f'the same in another order: {_short(rows)} and {_short(kept["train"])}. Labels '
                'would be mixed up; write both files from one list.'
            )
    ids, names = zip(*kept['train'], strict=True)
    return ids, names


def _short(rows: list) -> str:
    return ', '.join(f'{i} {name}' for i, name in rows[:4]) + (', ...' if len(rows) > 4 else '')


def check_masks(parts: dict[str, Part]) -> bool:
    """Whether the objects have masks.

    Raises:
        ValueError: some have, and some have not.
    """
    without: dict[bool, tuple[Path, int]] = {}
    for part in parts.values():
        for x in part.content['annotations']:
            without.setdefault(not x.get('segmentation'), (part.ann_file, x['id']))
    if len(without) == 2:
        path, i = without[True]
        raise ValueError(
            f'{path}: the annotation of id {i} has no segmentation, but others have one; give all '
            'objects masks, or none'
        )
    return False in without
