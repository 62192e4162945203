"""From images and videos to pictures, COCO results, label maps and videos in a folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import supervision as sv
from mmengine.config import Config
from PIL import Image
from pycocotools import mask as rle
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import nn

from mlp_backbones.checkpoints.files import replacing
from mlp_backbones.data.problems import Problem, listing
from mlp_backbones.data.splits import write

from .drawing import draw_detections, draw_label_map, palette_of
from .inputs import Input, Inputs, read_image
from .journal import Journal
from .models import detect, segment
from .video import count_frames, map_video

FOLDERS = ('pictures', 'videos', 'label_maps')
PICTURES = ('.jpg', '.jpeg', '.png')  # what every viewer opens; others become .jpg


@dataclass
class Predicted:
    """What :func:`predict` has done.

    Args:
        out: The folder of the results.
        images: How many images, and frames of videos, have results.
        earlier: How many of the files were done by an earlier run.
        skipped: The files that could not be read, and why.
        notes: What is odd about files that were read.
        results: The COCO results, of a detector.
    """

    out: Path
    images: int = 0
    earlier: int = 0
    skipped: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    results: Path | None = None

    def text(self) -> str:
        lines = [f'{self.images} images with results in {self.out}']
        if self.earlier:
            lines[0] += f'; {self.earlier} files were done earlier'
        for name in FOLDERS:
            if (self.out / name).is_dir():
                lines.append(f'  {self.out / name}')
        if self.results:
            lines.append(f'  {self.results}, whose ids are those of {self.out / "images.json"}')
        if self.skipped or self.notes:
            lines.append(listing([*self.skipped, *self.notes], shown=20))
        return '\n'.join(lines)


class Writer:
    """Predicts and writes one input after another.

    Args:
        model: A detector of mmdet or a segmentor of mmseg, with ``cfg`` and ``dataset_meta``.
        out: The folder of the results.
        score, tiles, overlap: as of :func:`mlp_backbones.apis.predict`.
    """

    def __init__(
        self, model: nn.Module, out: Path, score: float, tiles: int | None, overlap: float
    ):
        self.model, self.out = model, out
        self.score, self.tiles, self.overlap = score, tiles, overlap
        self.is_segmentor = model.cfg.get('default_scope') == 'mmseg'
        self.classes = [str(x) for x in model.dataset_meta['classes']]
        self.palette = palette_of(model.dataset_meta, len(self.classes))

    def targets(self, item: Input) -> dict[str, Path]:
        """The files, or the folder of a video's label maps, that an input will have."""
        name = Path(item.name)
        if item.is_video:
            found = dict(video=self.out / 'videos' / name.with_suffix('.mp4'))
        else:
            is_usual = name.suffix.lower() in PICTURES
            name_of_picture = name if is_usual else name.with_name(name.name + '.jpg')
            found = dict(picture=self.out / 'pictures' / name_of_picture)
        if self.is_segmentor:
            suffix = '' if item.is_video else '.png'
            found['labels'] = self.out / 'label_maps' / name.with_suffix(suffix)
        return found

    def write(self, item: Input, step: Callable[[], None]) -> tuple[list[dict], list[Problem]]:
        """Write the files of one input, and call ``step`` after each image.

        Returns:
            The width and height of each image, the number of each frame, what was found in it,
            and what is odd about the file.

        Raises:
            ValueError: it cannot be read; nothing is left of it.
        """
        targets = self.targets(item)
        for path in targets.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        if not item.is_video:
            image, notes = read_image(item.path)
            picture, entry = self._see(image, targets.get('labels'))
            save(picture, targets['picture'])
            step()
            return [entry], list(notes)
        entries: list[dict] = []
        frames = targets.get('labels')
        if frames:
            shutil.rmtree(frames, ignore_errors=True)
            frames.mkdir()

        def change(image: np.ndarray) -> np.ndarray:
            number = len(entries)
            picture, entry = self._see(image, frames and frames / f'{number:06}.png')
            entries.append(dict(entry, frame_id=number))
            step()
            return picture

        try:
            with replacing(targets['video']) as part:
                map_video(item.path, part, change)
        except ValueError:
            if frames:
                shutil.rmtree(frames)
            raise
        return entries, []

    def _see(self, image: np.ndarray, labels: Path | None) -> tuple[np.ndarray, dict]:
        """The picture of one image, and what was found in it; its label map is written."""
        height, width = image.shape[:2]
        entry = dict(width=width, height=height)
        if self.is_segmentor:
            found = segment(self.model, image, self.tiles, self.overlap)
            self._save_labels(found, labels)
            return draw_label_map(image, found, self.classes, self.palette), entry
        found = detect(self.model, image, self.score, self.tiles, self.overlap)
        picture = draw_detections(image, found, self.classes, self.palette)
        return picture, dict(entry, found=as_coco(found))

    def _save_labels(self, labels: np.ndarray, path: Path) -> None:
        """A PNG file of one channel, with the colours of the classes as its palette."""
        if len(self.classes) > 256:
            save(labels, path)
            return
        picture = Image.fromarray(labels.astype(np.uint8), 'P')
        colours = (self.palette.by_idx(i).as_rgb() for i in range(len(self.classes)))
        picture.putpalette([value for colour in colours for value in colour])
        with replacing(path) as part:
            picture.save(part, format='png')


def save(picture: np.ndarray, path: Path) -> None:
    """Write a picture, whole or not at all."""
    good, content = cv2.imencode(path.suffix, picture)
    if not good:
        raise OSError(f'{path} cannot be written')
    with replacing(path) as part:
        Path(part).write_bytes(content.tobytes())


def as_coco(detections: sv.Detections) -> list[dict]:
    """Entries of COCO results, with the number of the class in place of ids."""
    found = []
    for i in range(len(detections)):
        left, top, right, bottom = (float(x) for x in detections.xyxy[i])
        entry = dict(
            label=int(detections.class_id[i]),
            bbox=[round(x, 2) for x in (left, top, right - left, bottom - top)],
            score=round(float(detections.confidence[i]), 5),
        )
        if detections.mask is not None:
            code = rle.encode(np.asfortranarray(detections.mask[i], np.uint8))
            entry['segmentation'] = dict(size=code['size'], counts=code['counts'].decode())
        found.append(entry)
    return found


def run(writer: Writer, inputs: Inputs, settings: dict, progress: bool) -> Predicted:
    """Predict all inputs that an earlier run has not, and write the results of all.

    Raises:
        ValueError: two inputs would have one file, the folder holds other results, or a COCO file
            lacks a class of the model.
    """
    counts = Counter(path for x in inputs.files for path in writer.targets(x).values())
    twice = next((path for path, count in counts.items() if count > 1), None)
    if twice:
        names = [str(x.path) for x in inputs.files if twice in writer.targets(x).values()]
        raise ValueError(
            f'{" and ".join(names[:2])} would both become {twice}; give them one at a time, each '
            'with a folder of its own for the results'
        )
    if inputs.categories is not None and not writer.is_segmentor:
        lacking = [name for name in writer.classes if name not in inputs.categories]
        if lacking:
            raise ValueError(
                f'the COCO file has no category {lacking[0]!r}, which the model predicts '
                f'({len(lacking)} of its {len(writer.classes)} classes are not there); its '
                f'categories are {", ".join(list(inputs.categories)[:5])}'
            )
    journal = Journal(writer.out, settings)
    waiting = [x for x in inputs.files if not journal.has(x.name, x.path)]
    done = Predicted(writer.out, earlier=len(inputs.files) - len(waiting))
    total = sum(count_frames(x.path) if x.is_video else 1 for x in waiting)
    columns = [TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn()]
    columns += [TimeElapsedColumn(), TextColumn('left:'), TimeRemainingColumn()]
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task('images', total=total)
        for item in waiting:
            try:
                images, notes = writer.write(item, lambda: bar.advance(task))
            except ValueError as error:
                kind = (
                    'video that cannot be read' if item.is_video else 'image that cannot be read'
                )
                done.skipped.append(Problem(kind, str(item.path), str(error)))
                if not item.is_video:
                    bar.advance(task)
                continue
            done.notes += notes
            journal.add(item.name, item.path, images)
    for folder in FOLDERS:
        for root, _, _ in os.walk(writer.out / folder, topdown=False):
            with suppress(OSError):  # of a file that was skipped
                os.rmdir(root)
    done.images = sum(len(x['images']) for x in journal.entries.values())
    if not writer.is_segmentor:
        done.results = write_results(writer, journal, inputs)
    return done


def write_results(writer: Writer, journal: Journal, inputs: Inputs) -> Path:
    """predictions.json, COCO results, and images.json, the images and categories of their ids."""
    given = inputs.categories or {name: i for i, name in enumerate(writer.classes, 1)}
    ids = {x.name: x.id for x in inputs.files if x.id is not None}
    images, results = [], []
    for name, entry in sorted(journal.entries.items()):
        for image in entry['images']:
            found = image.get('found', [])
            number = ids.get(name, len(images) + 1)
            rest = {k: v for k, v in image.items() if k != 'found'}
            images.append(dict(id=number, file_name=name, **rest))
            for x in found:
                kept = {k: v for k, v in x.items() if k != 'label'}
                category = given[writer.classes[x['label']]]
                results.append(dict(image_id=number, category_id=category, **kept))
    categories = [dict(id=i, name=name) for name, i in given.items()]
    listed = dict(images=images, annotations=[], categories=categories)
    write(writer.out / 'images.json', json.dumps(listed))
    return write(writer.out / 'predictions.json', json.dumps(results))


def settings_of(checkpoint: str, cfg: Config, coco: str | None, **numbers) -> dict:
    """What the results depend on, for :class:`Journal`."""
    path = Path(checkpoint)
    state = path.stat() if path.is_file() else None
    return dict(
        checkpoint=str(path.absolute()) if state else checkpoint,
        bytes=state and state.st_size,
        changed=state and state.st_mtime_ns,
        config=hashlib.sha1(cfg.pretty_text.encode()).hexdigest()[:12],
        coco=coco,
        **numbers,
    )
