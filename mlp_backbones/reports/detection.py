"""The numbers of a detection report, by pycocotools and supervision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import supervision as sv
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SCORE, IOU = 0.3, 0.5  # of what counts as found, in the confusion matrix and for the worst images
SIZES = ('AP small', 'AP medium', 'AP large')  # COCO's: below 32 x 32, below 96 x 96, above
STATS = ('AP', 'AP50', 'AP75', *SIZES)
SHOWN_IOUS = (0.5, 0.75, 0.9)


def numbers(
    coco: COCO,
    results: dict[str, list[dict]],
    classes: Sequence[str],
    cat_ids: Sequence[int],
    img_ids: Sequence[int],
    max_dets: Sequence[int],
    iou_thrs: np.ndarray,
) -> dict[str, Any]:
    """All numbers, as JSON has them; None stands for a class or a size without objects.

    Args:
        coco: The ground truth.
        results: COCO results by type, 'bbox' and 'segm'.
        classes, cat_ids: The names and ids of the categories, in the order of the labels.
        img_ids: The images that count.
        max_dets, iou_thrs: as mmdet's CocoMetric has them, so that the numbers are its own.
    """
    found: dict[str, Any] = dict(kind='detection', classes=list(classes))
    found['metrics'], found['by_class'], found['curves'] = {}, {}, {}
    wanted = {*img_ids}
    objects = Counter(
        x['category_id']
        for x in coco.anns.values()
        if x['image_id'] in wanted and not x.get('iscrowd')
    )
    for kind, entries in results.items():
        if not entries:
            continue
        # loadRes changes them; and from a box it would take the size of a mask
        left_out = ('bbox',) if kind == 'segm' else ()
        copies = [{k: v for k, v in x.items() if k not in left_out} for x in entries]
        detected = coco.loadRes(copies)
        run = COCOeval(coco, detected, kind)
        run.params.catIds, run.params.imgIds = list(cat_ids), list(img_ids)
        run.params.maxDets, run.params.iouThrs = list(max_dets), iou_thrs
        run.evaluate()
        run.accumulate()
        run.summarize()
        # pycocotools sorts the categories
        order = [list(run.params.catIds).index(number) for number in cat_ids]
        precision = run.eval['precision'][:, :, order]
        recall = run.eval['recall'][:, order]
        found['metrics'][kind] = dict(zip(STATS, map(_value, run.stats[:6]), strict=True))
        rows = []
        for i, (name, number) in enumerate(zip(classes, cat_ids, strict=True)):
            row = {'class': name, 'objects': objects[number]}
            row['AP'] = _mean(precision[:, :, i, 0, -1])
            for iou in (0.5, 0.75):
                row[f'AP{iou * 100:.0f}'] = _mean(precision[_at(iou_thrs, iou), :, i, 0, -1])
            for j, size in enumerate(SIZES, 1):  # 0 is all sizes
                row[size] = _mean(precision[:, :, i, j, -1])
            row['AR'] = _mean(recall[:, i, 0, -1])
            rows.append(row)
        found['by_class'][kind] = rows
        curves = {}
        for iou in SHOWN_IOUS:
            at = precision[_at(iou_thrs, iou), :, :, 0, -1]
            known = at[:, (at > -1).all(0)]
            if known.size:
                curves[f'{iou:g}'] = _round(known.mean(1))
        by_class = {}
        for i, name in enumerate(classes):
            curve = precision[_at(iou_thrs, 0.5), :, i, 0, -1]
            if (curve > -1).all():
                by_class[name] = _round(curve)
        found['curves'][kind] = dict(
            recall=_round(run.params.recThrs), mean=curves, by_class=by_class
        )
    return found


def confusion(
    coco: COCO,
    boxes: list[dict],
    classes: Sequence[str],
    cat_ids: Sequence[int],
    img_ids: Sequence[int],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The confusion matrix of boxes with a score of at least SCORE, which are right if they have
    an IoU of at least IOU with an object; and what is right and wrong in each image, the worst
    first.

    Returns:
        The matrix (classes + 1, classes + 1), true by predicted, with the background last; a dict
        for each image with its id, what was ``right``, ``missed`` and ``false``, and F1.
    """
    labels = {number: i for i, number in enumerate(cat_ids)}
    of_image: dict[int, list] = {i: [] for i in img_ids}
    for x in boxes:
        if x['score'] >= SCORE and x['image_id'] in of_image:
            of_image[x['image_id']].append(x)
    total = np.zeros((len(classes) + 1,) * 2, int)
    images = []
    for number in img_ids:
        truth = [x for x in coco.imgToAnns[number] if x['category_id'] in labels]
        truth = [x for x in truth if not x.get('iscrowd')]
        matrix = sv.ConfusionMatrix.from_detections(
            [as_detections(of_image[number], labels)],
            [as_detections(truth, labels)],
            list(classes),
            conf_threshold=SCORE,
            iou_threshold=IOU,
        ).matrix.astype(int)
        total += matrix
        right = int(np.trace(matrix[:-1, :-1]))
        missed = int(matrix[:-1].sum()) - right
        false = int(matrix[:, :-1].sum()) - right
        if missed + false:
            f1 = 2 * right / (2 * right + missed + false)
            images.append(
                dict(id=number, f1=round(f1, 4), right=right, missed=missed, false=false)
            )
    images.sort(key=lambda x: (x['f1'], -x['missed'] - x['false']))
    return dict(score=SCORE, iou=IOU, matrix=total.tolist()), images


def as_detections(entries: Sequence[dict], labels: dict[int, int]) -> sv.Detections:
    """COCO annotations or results; all have scores, 1 where there are none."""
    boxes = np.array([x['bbox'] for x in entries], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return sv.Detections(
        boxes,
        confidence=np.array([x.get('score', 1.0) for x in entries], float),
        class_id=np.array([labels[x['category_id']] for x in entries], int),
    )


def _at(values: np.ndarray, wanted: float) -> int:
    return int(np.abs(np.asarray(values) - wanted).argmin())


def _mean(values: np.ndarray) -> float | None:
    known = values[values > -1]
    return _value(known.mean()) if known.size else None


def _value(number: float) -> float | None:
    return None if number < 0 else round(float(number), 5)


def _round(values: np.ndarray) -> list[float]:
    return [round(float(x), 4) for x in values]
