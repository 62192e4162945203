"""Checks every file and entry of a data set: what it holds, and what is wrong with it."""

from __future__ import annotations

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from rich.console import Console
from rich.progress import track

from mlp_backbones.engine.config_check import walk
from mlp_backbones.engine.data_check import COCO_DATASET, check_categories, check_paths

from .coco import (
    Part,
    annotation_files,
    as_id,
    categories,
    check_coco,
    check_image,
    check_masks,
    has_categories,
    image_folder,
    is_box,
    load,
    numbers,
)
from .config import SET_LABEL_MAP
from .masks import (
    IGNORE,
    MaskPart,
    find_dirs,
    find_suffix,
    learned_classes,
    list_images,
    look_at_map,
    read_names,
)
from .problems import Problem, listing, look_at, repeated
from .splits import SPLITS, check_folder, table

# Areas below which an object is small or medium: COCO's.
SIZES = dict(small=32**2, medium=96**2, large=float('inf'))


@dataclass
class Report:
    """What a data set holds and what is wrong with it.

    ``counts`` are, by part and class, those of small, medium and large objects, or of pixels, and
    of images; ``sizes`` the widths and heights of images, and how many have them.
    """

    classes: tuple[str, ...] = ()
    counts: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, Counter] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    # Images of the training part, with annotations as `sheet.py` draws them.
    samples: list[tuple[Path, Any]] = field(default_factory=list)
    palette: list | None = None

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.is_error]

    def text(self) -> str:
        """Tables of the parts, then the problems, a few of each kind."""
        blocks = []
        for part, rows in self.counts.items():
            columns = list(next(iter(rows.values()), {}))
            lines = {name: [str(row[key]) for key in columns] for name, row in rows.items()}
            widths, heights = (sorted(x[i] for x in self.sizes[part].elements()) for i in (0, 1))
            head = f'{part}: {self.images[part]} images'
            if widths:
                head += (
                    f', {widths[0]} to {widths[-1]} pixels wide (median {median(widths):g}), '
                    f'{heights[0]} to {heights[-1]} high ({median(heights):g})'
                )
            blocks += [head, table('', lines, columns), '']
        found = listing(self.problems) or 'no problems'
        return '\n'.join([*blocks, found])

    def as_json(self) -> dict:
        """All of it, with every problem, as JSON has it."""
        sizes = {
            part: [[*size, count] for size, count in sorted(sizes.items())]
            for part, sizes in self.sizes.items()
        }
        return dict(
            classes=list(self.classes),
            images=self.images,
            counts=self.counts,
            sizes=sizes,
            problems=[asdict(problem) for problem in self.problems],
        )


def check_dataset(source: str | Path | Config) -> Report:
    """Check a folder, as ``tools/train.py --data`` takes it, or the data sets of a config.

    Raises:
        FileNotFoundError, ValueError: there is nothing to check.
    """
    if not isinstance(source, Config):
        folder = check_folder(source)
        try:
            files = annotation_files(folder)
        except FileNotFoundError as no_annotations:
            try:
                return _check_label_maps_of_folder(folder)
            except FileNotFoundError as error:
                raise FileNotFoundError(f'{no_annotations}\n{error}') from error
        if not any(map(has_categories, files.values())):
            with suppress(FileNotFoundError):  # then the files should have been COCO's
                return _check_label_maps_of_folder(folder)
        return _check_coco(_coco_of_folder(folder, files), all_with_masks=True)
    init_default_scope(source.get('default_scope') or 'mmengine')
    loops = [loop for loop in SPLITS if source.get(f'{loop}_dataloader')]
    check_paths(source, loops)
    if source.get('default_scope') == 'mmseg':
        return _check_label_maps_of_config(source, loops)
    loaders = [source[f'{loop}_dataloader'] for loop in loops]
    with_mask = any(step.get('with_mask') for _, step in walk(loaders))
    report = _check_coco(_coco_of_config(source, loops), with_mask)
    try:
        check_categories(source, loops)
    except ValueError as error:
        report.problems.append(Problem('categories', source.filename, str(error)))
    return report


# COCO


def _coco_of_folder(folder: Path, files: Mapping[str, Path]) -> Iterator[tuple]:
    for split, path in files.items():
        part = 'train' if split == 'all' else split
        yield (
            part,
            path,
            lambda content, path=path, part=part: image_folder(folder, path, content, part),
        )


def _coco_of_config(cfg: Config, loops: Sequence[str]) -> Iterator[tuple]:
    known = set()
    for loop in loops:
        for setting, dataset in walk(cfg[f'{loop}_dataloader'].dataset):
            if 'dataset' in dataset or 'datasets' in dataset or 'type' not in dataset:
                continue
            if 'ann_file' not in dataset:
                continue  # a step of a pipeline
            if dataset['type'] not in COCO_DATASET:
                raise ValueError(
                    f'{loop}_dataloader.dataset{setting and "." + setting} is a '
                    f'{dataset["type"]}; for detection, only COCO files can be checked'
                )
            root = dataset.get('data_root') or ''
            path = Path(root, dataset['ann_file'])
            img_dir = Path(root, (dataset.get('data_prefix') or {}).get('img', ''))
            if (path, img_dir) not in known:
                known.add((path, img_dir))
                yield loop, path, lambda content, img_dir=img_dir: img_dir


def _check_coco(found: Iterator[tuple[str, Path, Callable]], all_with_masks: bool) -> Report:
    """Args: each part with its annotations and what tells the folder of their images; whether
    objects must all have masks if some have.
    """
    report, parts = Report(), {}
    for name, path, img_dir_of in found:
        try:
            content = load(path)
        except (ValueError, OSError) as error:
            report.problems.append(Problem('broken annotation file', str(path), str(error)))
            continue
        report.problems += check_coco(path, content)
        while name in parts:  # several data sets of one part
            name += '+'
        parts[name] = Part(path, img_dir_of(content), content)
    if not parts:
        return report
    first = 'train' if 'train' in parts else next(iter(parts))
    cat_ids = [as_id(x.get('id')) for x in parts[first].content['categories']]
    report.classes = tuple(str(x.get('name')) for x in parts[first].content['categories'])
    try:
        cat_ids, report.classes = categories(parts)
    except ValueError as error:
        report.problems.append(Problem('categories', str(parts[first].ann_file), str(error)))
    except (KeyError, TypeError):
        pass  # an entry is among the problems
    try:
        check_masks(parts)
    except ValueError as error:
        file = str(parts[first].ann_file)
        report.problems.append(Problem('masks', file, str(error), all_with_masks))

    looks, digests = [], defaultdict(list)
    for name, part in parts.items():
        images = [x for x in part.content['images'] if isinstance(x.get('file_name'), str)]
        looks += [(name, part, image) for image in images]
        report.images[name], report.sizes[name] = len(part.content['images']), Counter()
        report.counts[name] = _count_objects(part, dict(zip(cat_ids, report.classes, strict=True)))
    seen = _each(looks, lambda x: look_at(x[1].img_dir / x[2]['file_name'], whole=True))
    for (name, part, image), file in zip(looks, seen, strict=True):
        path = part.img_dir / image['file_name']
        if numbers([image.get('width'), image.get('height')]):
            report.problems += check_image(part.ann_file, part.img_dir, image, file)
        else:
            report.problems += file.problems
        if file.size:
            report.sizes[name][file.size] += 1
        if file.digest:
            digests[file.digest].append((name.rstrip('+'), path))
    report.problems += repeated(digests)
    for label, count in report.counts[first].items():
        if not count['all']:
            text = f'{parts[first].ann_file}: no object is a {label}'
            report.problems.append(
                Problem('class without objects', str(parts[first].ann_file), text, False)
            )
    report.samples = _coco_samples(parts[first], cat_ids)
    return report


def _count_objects(part: Part, names: Mapping[Any, str]) -> dict[str, dict[str, int]]:
    counts = {name: dict.fromkeys([*SIZES, 'all', 'images'], 0) for name in names.values()}
    images = defaultdict(set)
    for x in part.content['annotations']:
        box, name = x.get('bbox'), names.get(as_id(x.get('category_id')))
        if name is None or not is_box(box):
            continue
        size = next(key for key, limit in SIZES.items() if box[2] * box[3] < limit)
        counts[name][size] += 1
        counts[name]['all'] += 1
        images[name].add(as_id(x.get('image_id')))
    for name, ids in images.items():
        counts[name]['images'] = len(ids)
    return counts


def _coco_samples(part: Part, cat_ids: Sequence[int]) -> list[tuple[Path, list]]:
    """Images with their boxes, masks and labels."""
    labels = {cat_id: label for label, cat_id in enumerate(cat_ids)}
    objects = defaultdict(list)
    for x in part.content['annotations']:
        box, label = x.get('bbox'), labels.get(as_id(x.get('category_id')))
        if label is not None and is_box(box):
            objects[as_id(x.get('image_id'))].append((box, x.get('segmentation'), label))
    return [
        (part.img_dir / str(x.get('file_name')), objects[as_id(x.get('id'))])
        for x in part.content['images']
        if objects.get(as_id(x.get('id')))
    ]


# Label maps


def _check_label_maps_of_folder(folder: Path) -> Report:
    parts, problems, pairs = {}, [], {}
    for split, (img_dir, ann_dir) in find_dirs(folder).items():
        images = list_images(img_dir)
        kinds = Counter(path.suffix for path in images)
        if len(kinds) > 1:
            text = f'{img_dir} has images that end in {", ".join(kinds)}; mmseg takes one kind'
            problems.append(Problem('images of several kinds', str(img_dir), text))
        names = [str(path.relative_to(img_dir).with_suffix('')) for path in images]
        split = 'train' if split == 'all' else split
        parts[split] = MaskPart(img_dir, ann_dir, names)
        pairs[split] = images
    suffix, _ = find_suffix(parts)
    for split, part in parts.items():
        maps = [Path(f'{part.ann_dir / name}{suffix}') for name in part.names]
        pairs[split] = [*zip(pairs[split], maps, strict=True)]
        for path in sorted({*part.ann_dir.rglob(f'*{suffix}')} - {*maps}):
            text = f'{path} has no image in {part.img_dir}'
            problems.append(Problem('label map without image', str(path), text, False))

    def classes_of(seen: Sequence[int]) -> tuple:
        names, source, colours = read_names(folder, parts['train'], suffix, seen)
        classes, labels, palette = learned_classes(names, colours)
        return classes, dict(enumerate(labels)), palette, f'{source} names {len(names)}'

    return _check_label_maps(pairs, problems, classes_of)


def _check_label_maps_of_config(cfg: Config, loops: Sequence[str]) -> Report:
    pairs, known, meta = {}, set(), None
    for loop in loops:
        dataset = cfg[f'{loop}_dataloader'].dataset
        changes = {
            int(old): new
            for _, step in walk(dataset)
            if step.get('type') == SET_LABEL_MAP
            for old, new in step['changes']
        }
        built = DATASETS.build(dataset)
        entries = [built.get_data_info(i) for i in range(len(built))]
        found = [
            (Path(x['img_path']), Path(x['seg_map_path']))
            for x in entries
            if x.get('seg_map_path')
        ]
        pairs[loop] = [pair for pair in found if pair not in known]
        known.update(found)
        if loop == loops[0] and entries:
            meta = built.metainfo, {**(entries[0].get('label_map') or {}), **changes}, entries[0]
    if not known:
        raise ValueError(f'{cfg.filename}: its data sets have no label maps')

    def classes_of(seen: Sequence[int]) -> tuple:
        metainfo, changes, first = meta
        count, numbers = len(metainfo['classes']), {}
        for label in {*range(256), *seen}:
            number = changes.get(label, label)
            if first.get('reduce_zero_label'):
                number = IGNORE if number in (0, IGNORE) else number - 1
            if number < count or number == IGNORE:
                numbers[label] = number
        whose = f'the data set has {count} classes, for labels to {max(numbers.keys() - {IGNORE})}'
        return list(metainfo['classes']), numbers, metainfo.get('palette'), whose

    return _check_label_maps({k: v for k, v in pairs.items() if v}, [], classes_of)


def _check_label_maps(
    pairs: Mapping[str, list[tuple[Path, Path]]],
    problems: list[Problem],
    classes_of: Callable[[Sequence[int]], tuple],
) -> Report:
    """Args: images and label maps of each part, and what tells the classes: their names, the
    number of each label that has one, colours, and where that is said.
    """
    looks = [(part, *pair) for part, found in pairs.items() for pair in found]

    def look(entry: tuple[str, Path, Path]) -> tuple:
        image = look_at(entry[1], whole=True)
        return image, *look_at_map(entry[2], image.size)

    seen = _each(looks, look)
    report = Report(problems=problems)
    labels = sorted({label for _, counts, _ in seen for label in counts})
    try:
        classes, numbers, report.palette, whose = classes_of(labels)
    except (ValueError, OSError) as error:
        report.problems.append(Problem('classes', '', str(error)))
        classes = [f'label {label}' for label in labels]
        numbers, whose = {label: i for i, label in enumerate(labels)}, ''
    report.classes = tuple(classes)
    report.images = {part: len(found) for part, found in pairs.items()}
    report.sizes = {part: Counter() for part in pairs}
    report.counts = {part: {name: dict(pixels=0, images=0) for name in classes} for part in pairs}
    digests = defaultdict(list)
    for (part, image, label_map), (file, counts, found) in zip(looks, seen, strict=True):
        report.problems += [*file.problems, *found]
        if file.size:
            report.sizes[part][file.size] += 1
        if file.digest:
            digests[file.digest].append((part, image))
        for label, count in counts.items():
            if label in numbers:
                if numbers[label] != IGNORE:
                    row = report.counts[part][classes[numbers[label]]]
                    row['pixels'] += count
                    row['images'] += 1
            elif label != IGNORE:
                text = f'{label_map} has label {label} in {count} pixels; {whose}'
                report.problems.append(Problem('label out of range', str(label_map), text))
    report.problems += repeated(digests)
    first = next(iter(pairs))
    for name, row in report.counts[first].items():
        if not row['pixels']:
            text = f'no pixel of {first} is {name}'
            report.problems.append(Problem('class without pixels', '', text, False))
    report.samples = [(image, (label_map, numbers)) for image, label_map in pairs[first]]
    return report


def _each(entries: Sequence, look: Callable) -> list:
    """Look at each, in threads, with a progress bar on a terminal."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        seen = pool.map(look, entries)
        console = Console(stderr=True)
        bar = dict(total=len(entries), console=console, disable=not sys.stderr.isatty())
        return list(track(seen, 'Looking at the images', **bar))
