"""Pictures of annotated images, to see whether the annotations are what they should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmengine.structures import InstanceData, PixelData
from pycocotools import mask as rle

from .check import Report
from .coco import polygons
from .masks import IGNORE
from .problems import BROKEN

CELL = (400, 300)  # width and height of a picture
COLUMNS = 4


def draw_sheet(report: Report, path: str | Path, count: int = 12) -> int:
    """Write a PNG file with some of a report's images, evenly spread, and their annotations, drawn
    by the visualizer of mmdet or mmseg.

    Returns:
        How many there are.
    """
    cells = []
    step = max(1, len(report.samples) // count)
    for image_path, annotation in report.samples[::step][:count]:
        try:
            image = mmcv.imread(str(image_path), channel_order='rgb')
            cells.append(_draw(report, image, annotation))
        except (*BROKEN, AttributeError, cv2.error):
            continue  # it is among the problems
    if cells:
        rows = -(-len(cells) // COLUMNS)
        cells += [np.full_like(cells[0], 255)] * (rows * COLUMNS - len(cells))
        sheet = np.vstack([np.hstack(cells[COLUMNS * i :][:COLUMNS]) for i in range(rows)])
        mmcv.imwrite(sheet[..., ::-1], str(path))
    return len(cells)


def _draw(report: Report, image: np.ndarray, annotation: Any) -> np.ndarray:
    """One picture, of the size of a cell."""
    size = image.shape[:2]
    image, scale = mmcv.imrescale(image, CELL, return_scale=True)
    drawn = (_boxes if isinstance(annotation, list) else _map)(
        report, image, scale, annotation, size
    )
    pad = [(0, want - have) for want, have in zip(CELL[::-1], drawn.shape, strict=False)]
    return np.pad(drawn, [*pad, (0, 0)], constant_values=255)


def _boxes(report: Report, image, scale, objects, size) -> np.ndarray:
    from mmdet.structures import DetDataSample
    from mmdet.visualization import DetLocalVisualizer

    boxes = torch.tensor([box for box, _, _ in objects], dtype=torch.float32)
    boxes[:, 2:] += boxes[:, :2]
    instances = InstanceData(
        bboxes=boxes * scale, labels=torch.tensor([label for *_, label in objects])
    )
    if all(mask for _, mask, _ in objects):
        shape = image.shape[1::-1]
        masks = [_mask(mask, size) for _, mask, _ in objects]
        masks = [cv2.resize(mask, shape, interpolation=cv2.INTER_NEAREST) for mask in masks]
        instances.masks = np.stack(masks).astype(bool)
    sample = DetDataSample(gt_instances=instances)
    visualizer = DetLocalVisualizer(line_width=2, alpha=0.4)
    visualizer.dataset_meta = dict(classes=report.classes, palette='random')
    visualizer.add_datasample('sheet', image, sample, draw_pred=False)
    return visualizer.get_image()


def _mask(mask: Any, size: tuple[int, int]) -> np.ndarray:
    if isinstance(mask, list):
        outlines = polygons(mask)
        if not outlines:
            return np.zeros(size, np.uint8)
        mask = rle.merge(rle.frPyObjects(outlines, *size))
    elif isinstance(mask['counts'], list):
        mask = rle.frPyObjects(mask, *size)
    return rle.decode(mask)


def _map(report: Report, image, scale, annotation, size) -> np.ndarray:
    from mmseg.structures import SegDataSample
    from mmseg.visualization import SegLocalVisualizer

    path, numbers = annotation
    labels = mmcv.imread(str(path), flag='unchanged', backend='pillow')
    table = np.full(int(labels.max()) + 1, IGNORE)
    for label, number in numbers.items():
        table[label : label + 1] = number
    labels = cv2.resize(
        table[labels].astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST
    )
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.from_numpy(labels)[None].long()))
    visualizer = SegLocalVisualizer(alpha=0.5)
    palette = report.palette or np.random.default_rng(0).integers(0, 255, (len(report.classes), 3))
    visualizer.dataset_meta = dict(
        classes=report.classes, palette=[[*map(int, x)] for x in palette]
    )
    visualizer.add_datasample('sheet', image, sample, draw_pred=False, with_labels=True)
    return visualizer.get_image()
