"""What a detector or a segmentor sees in one image, as a whole or tile by tile."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import supervision as sv
from torch import nn

# Parts of one object, seen in two tiles, are merged where they share this much of the smaller one:
# sahi's default.
OVERLAP_OF_PARTS = 0.5


def detect(
    model: nn.Module,
    image: np.ndarray,
    score: float,
    tiles: int | None = None,
    overlap: float = 0.2,
) -> sv.Detections:
    """The objects of an image (H, W, 3), BGR, with a score of at least ``score``.

    Args:
        tiles: Look at tiles of this many pixels as well as at the whole image, and merge the
            parts of objects. An image that is no larger is looked at as a whole.
        overlap: How much of a tile the next one covers again, from 0 to below 1.
    """
    whole = _detect(model, image, score)
    if tiles is None or max(image.shape[:2]) <= tiles:
        return whole
    slicer = sv.InferenceSlicer(
        lambda tile: _detect(model, tile, score),
        slice_wh=tiles,
        overlap_wh=round(tiles * overlap),
        overlap_filter=sv.OverlapFilter.NONE,
        compact_masks=True,  # an image of 10,000 x 10,000 has no room for dense ones
    )
    if whole.mask is not None:
        whole.mask = sv.CompactMask.from_dense(whole.mask, whole.xyxy, image.shape[:2])
    found = [x for x in (whole, slicer(image)) if len(x)]
    if not found:
        return whole
    return sv.Detections.merge(found).with_nmm(
        OVERLAP_OF_PARTS, overlap_metric=sv.OverlapMetric.IOS
    )


def _detect(model: nn.Module, image: np.ndarray, score: float) -> sv.Detections:
    from mmdet.apis import inference_detector

    result = inference_detector(model, np.ascontiguousarray(image))
    result.pred_instances = result.pred_instances[result.pred_instances.scores >= score]
    return sv.Detections.from_mmdetection(result)


def segment(
    model: nn.Module, image: np.ndarray, tiles: int | None = None, overlap: float = 0.2
) -> np.ndarray:
    """The label map (H, W) of an image (H, W, 3), BGR.

    Args:
        tiles: Look at tiles of this many pixels, of which each gives the pixels that are nearer
            to its middle than to those of the others.
        overlap: How much of a tile the next one covers again, from 0 to below 1.
    """
    if tiles is None or max(image.shape[:2]) <= tiles:
        return _segment(model, image)
    labels = np.zeros(image.shape[:2], np.uint16)
    for top, bottom, rows in cuts(image.shape[0], tiles, overlap):
        for left, right, columns in cuts(image.shape[1], tiles, overlap):
            tile = _segment(model, image[top:bottom, left:right])
            inner = tile[rows.start - top : rows.stop - top, columns.start - left :]
            labels[rows, columns] = inner[:, : columns.stop - columns.start]
    return labels


def cuts(length: int, tile: int, overlap: float) -> Iterator[tuple[int, int, slice]]:
    """Evenly spread tiles of one side of an image: start, end, and the pixels that are taken
    from each, which cover the side without overlap.
    """
    count = 1
    if length > tile:
        count += -(-(length - tile) // max(1, round(tile * (1 - overlap))))
    starts = [round(i * max(0, length - tile) / max(1, count - 1)) for i in range(count)]
    ends = [min(start + tile, length) for start in starts]
    seams = [(end + start) // 2 for end, start in zip(ends, starts[1:], strict=False)]
    for start, end, first, last in zip(starts, ends, [0, *seams], [*seams, length], strict=True):
        yield start, end, slice(first, last)


def _segment(model: nn.Module, image: np.ndarray) -> np.ndarray:
    from mmseg.apis import inference_model

    result = inference_model(model, np.ascontiguousarray(image))
    return result.pred_sem_seg.data[0].cpu().numpy().astype(np.uint16)
