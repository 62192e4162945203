"""The numbers of a segmentation report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def confusion(truth: np.ndarray, predicted: np.ndarray, count: int) -> np.ndarray:
    """How many pixels of each true class (rows) were given each class (columns).

    Pixels whose truth is no class, such as 255, do not count.
    """
    known = (truth >= 0) & (truth < count)
    pairs = truth[known].astype(np.int64) * count + predicted[known]
    return np.bincount(pairs, minlength=count * count).reshape(count, count)


def scores(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """IoU and accuracy of each class; not a number where there is none of it."""
    right, true, given = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    with np.errstate(invalid='ignore'):
        return dict(IoU=right / (true + given - right), accuracy=right / true)


def numbers(matrix: np.ndarray, classes: Sequence[str], images: int) -> dict[str, Any]:
    """All numbers, as JSON has them, in percent; None stands for a class without pixels."""
    found = scores(matrix)
    pixels = matrix.sum(1)
    rows = []
    for i, name in enumerate(classes):
        row = {'class': name, 'pixels': round(100 * pixels[i] / max(1, pixels.sum()), 3)}
        rows.append(row | {key: _percent(values[i]) for key, values in found.items()})
    metrics = dict(
        mIoU=_percent(np.nanmean(found['IoU'])),
        aAcc=_percent(np.trace(matrix) / max(1, matrix.sum())),
        mAcc=_percent(np.nanmean(found['accuracy'])),
    )
    return dict(
        kind='segmentation',
        classes=list(classes),
        images=images,
        metrics=dict(pixels=metrics),
        by_class=dict(pixels=rows),
        confusion=dict(matrix=matrix.tolist()),
    )


def _percent(value: float) -> float | None:
    return None if np.isnan(value) else round(100 * float(value), 3)
