"""Metrics that write a report; ``tools/test.py --report`` puts them into a config."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from mmengine.registry import METRICS as ROOT_METRICS
from PIL import Image

from mlp_backbones.data.splits import write

from ..registry import METRICS


@METRICS.register_module()
class SegmentationReport(BaseMetric):
    """Writes a report about label maps; its metrics are none.

    Args:
        report: as of :func:`mlp_backbones.reports.page.write_report`.
        kwargs: as of mmengine's BaseMetric.
    """

    def __init__(self, report: dict[str, Any], **kwargs):
        super().__init__(**kwargs)
        self.report = report

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        from .segmentation import confusion

        count = len(self.dataset_meta['classes'])
        for sample in data_samples:
            truth, predicted = (
                sample[name]['data'].squeeze().cpu().numpy()
                for name in ('gt_sem_seg', 'pred_sem_seg')
            )
            matrix = confusion(truth, predicted, count)
            pairs = np.flatnonzero(matrix)
            self.results.append(
                dict(
                    path=sample['img_path'],
                    pairs=pairs,
                    counts=matrix.flat[pairs],
                    maps=(as_png(truth), as_png(predicted)),
                )
            )

    def compute_metrics(self, results: list) -> dict:
        from .page import write_segmentation_report

        folder = write_segmentation_report(results, self.dataset_meta, **self.report)
        print_log(f'report: {folder}', MMLogger.get_current_instance())
        return {}


def as_png(labels: np.ndarray) -> bytes:
    """A label map, small enough to be kept for every image."""
    file = io.BytesIO()
    Image.fromarray(labels.astype(np.uint16)).save(file, 'png')
    return file.getvalue()


@METRICS.register_module()
class ReportingCocoMetric(BaseMetric):
    """mmdet's CocoMetric, which also keeps its results, or writes a report about them.

    Args:
        report: as of :func:`mlp_backbones.reports.page.write_report`; without it, none is written.
        results: A file that gets the COCO results, with masks if there are any.
        kwargs: as of CocoMetric.
    """

    def __init__(self, report: dict[str, Any] | None = None, results: str | None = None, **kwargs):
        self.metric = ROOT_METRICS.build(dict(type='mmdet.CocoMetric', **kwargs))
        super().__init__(self.metric.collect_device, self.metric.prefix)
        self.report, self.file = report, results

    @property
    def dataset_meta(self) -> dict | None:
        return self.metric.dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: dict) -> None:
        self.metric.dataset_meta = meta

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        self.metric.process(data_batch, data_samples)
        paths = [sample['img_path'] for sample in data_samples]
        self.results += zip(self.metric.results, paths, strict=True)
        self.metric.results = []

    def compute_metrics(self, results: list) -> dict[str, float]:
        from .page import write_detection_report

        metric, log = self.metric, MMLogger.get_current_instance()
        given = metric.outfile_prefix
        with TemporaryDirectory() as folder:
            metric.outfile_prefix = given or str(Path(folder, 'results'))
            metrics = metric.compute_metrics([result for result, _ in results])
            found = {}
            for kind in ('bbox', 'segm'):
                file = Path(f'{metric.outfile_prefix}.{kind}.json')
                if file.is_file() and kind in metric.metrics:
                    found[kind] = json.loads(file.read_text())
            metric.outfile_prefix = given
        if self.file:
            write(Path(self.file), json.dumps(found.get('segm', found.get('bbox', []))))
            print_log(f'results: {self.file}', log)
        if self.report:
            page = write_detection_report(
                metric._coco_api,
                found,
                {truth['img_id']: path for (truth, _), path in results},
                metric.dataset_meta,
                metric.cat_ids,
                max_dets=metric.proposal_nums,
                iou_thrs=metric.iou_thrs,
                **self.report,
            )
            print_log(f'report: {page}', log)
        return metrics
