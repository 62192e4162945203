"""A report in a folder: ``report.html``, one page that needs no other file, and its numbers,
``report.json``."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import jinja2
import mmcv
import numpy as np
from markupsafe import Markup
from PIL import Image
from pycocotools.coco import COCO

from mlp_backbones import __version__
from mlp_backbones.data.splits import write

from . import charts

WORST = 12  # images that are shown
SHOWN_CURVES = 10  # classes, those with the most objects
SHOWN_CONFUSIONS = 10
WIDTH = 480  # of a picture, in pixels
KINDS = dict(bbox='Boxes', segm='Masks', pixels='Label maps')
SIZES_NOTE = (
    'Small is below 32 x 32 pixels, large above 96 x 96. A class or a size without objects has no '
    'number.'
)
PIXELS_NOTE = 'Pixels are the share of each class in the ground truth, in percent.'
MATCH_NOTE = (
    ' Boxes with a score of at least {score} count, and are right with an IoU of at least {iou}. '
    'Objects predicted as background are missed, background predicted as objects is false.'
)
FIXED = ('class', 'objects', 'pixels')  # columns that say what a class is


def read_report(folder: str | Path, kind: str) -> dict[str, Any]:
    """The numbers of an earlier report.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is broken, or of another ``kind``, 'detection' or 'segmentation'.
    """
    path = Path(folder, 'report.json')
    if not path.is_file():
        raise FileNotFoundError(f'{folder} holds no report: there is no {path}')
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
        is_of = found['kind']
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f'{path} is not a report of tools/test.py') from error
    if is_of != kind:
        raise ValueError(f'{path} is a report of {is_of}, this is one of {kind}')
    return found


def write_detection_report(
    coco: COCO,
    results: dict[str, list[dict]],
    paths: Mapping[int, str],
    meta: Mapping[str, Any],
    cat_ids: Sequence[int],
    max_dets: Sequence[int],
    iou_thrs: np.ndarray,
    **report: Any,
) -> Path:
    """Write the report of a detector.

    Args:
        coco: The ground truth.
        results: COCO results by type, 'bbox' and 'segm'.
        paths: The images that were tested, by id.
        meta: ``classes`` and ``palette`` of the data set.
        cat_ids, max_dets, iou_thrs: as of :func:`detection.numbers`.
        report: as of :func:`write_report`.
    """
    from ..predictions.drawing import draw_detections, palette_of
    from . import detection

    classes = list(meta['classes'])
    found = detection.numbers(
        coco, results, classes, cat_ids, coco.getImgIds(), max_dets, iou_thrs
    )
    found['images'] = len(paths)
    boxes = results.get('bbox', results.get('segm', []))
    found['confusion'], images = detection.confusion(coco, boxes, classes, cat_ids, [*paths])
    for image in images:
        image['file_name'] = coco.imgs[image['id']]['file_name']
    found['images_with_errors'] = images
    labels = {number: i for i, number in enumerate(cat_ids)}
    palette = palette_of(dict(meta), len(classes))

    def draw(image: dict) -> tuple[np.ndarray, np.ndarray]:
        number = image['id']
        pixels = mmcv.imread(paths[number])
        truth = [x for x in coco.imgToAnns[number] if x['category_id'] in labels]
        seen = [x for x in boxes if x['image_id'] == number and x['score'] >= detection.SCORE]
        true = detection.as_detections(truth, labels)
        true.confidence = None
        predicted = detection.as_detections(seen, labels)
        return tuple(draw_detections(pixels, x, classes, palette) for x in (true, predicted))

    pairs = [
        pair(
            draw,
            image,
            f'{image["right"]} right, {image["missed"]} missed, {image["false"]} false',
        )
        for image in images[:WORST]
    ]
    return write_report(found, pairs, **report)


def write_segmentation_report(
    results: Sequence[dict], meta: Mapping[str, Any], **report: Any
) -> Path:
    """Write the report of a segmentor.

    Args:
        results: Of each image its ``path``, the ``pairs`` of labels that its confusion matrix has,
            flat, with their ``counts``, and its ``maps``, true and predicted, as PNG.
        meta: ``classes`` and ``palette`` of the data set.
        report: as of :func:`write_report`.
    """
    from ..predictions.drawing import draw_label_map, palette_of
    from . import segmentation

    classes = list(meta['classes'])
    total = np.zeros((len(classes),) * 2, np.int64)
    images = []
    for result in results:
        matrix = np.zeros_like(total)
        matrix.flat[result['pairs']] = result['counts']
        total += matrix
        if matrix.any():
            iou = float(np.nanmean(segmentation.scores(matrix)['IoU']))
            right = np.trace(matrix) / matrix.sum()
            images.append(dict(result, mIoU=round(100 * iou, 2), aAcc=round(100 * right, 2)))
    found = segmentation.numbers(total, classes, len(results))
    images.sort(key=lambda x: x['mIoU'])
    found['images_with_errors'] = [
        dict(file_name=str(x['path']), mIoU=x['mIoU'], aAcc=x['aAcc']) for x in images
    ]
    palette = palette_of(dict(meta), len(classes))

    def draw(image: dict) -> tuple[np.ndarray, np.ndarray]:
        pixels = mmcv.imread(image['path'])
        maps = (np.asarray(Image.open(io.BytesIO(x))) for x in image['maps'])
        return tuple(draw_label_map(pixels, x, classes, palette) for x in maps)

    pairs = [
        pair(
            draw, x | dict(file_name=x['path']), f'mIoU {x["mIoU"]}, {x["aAcc"]} % of pixels right'
        )
        for x in images[:WORST]
    ]
    return write_report(found, pairs, **report)


def pair(draw: Callable, image: dict, text: str) -> dict[str, str]:
    """Ground truth and prediction of an image, as data that a page holds."""
    urls = []
    for picture in draw(image):
        width = min(WIDTH, picture.shape[1])
        height = max(1, round(width * picture.shape[0] / picture.shape[1]))
        small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        code = base64.b64encode(cv2.imencode('.jpg', small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1])
        urls.append(f'data:image/jpeg;base64,{code.decode()}')
    name = os.path.basename(image['file_name'])
    return dict(name=name, text=text, truth=urls[0], prediction=urls[1])


def write_report(
    found: dict[str, Any],
    pairs: list[dict[str, str]],
    folder: str,
    config: str,
    checkpoint: str,
    compare: str | None = None,
) -> Path:
    """Write the page and the numbers.

    Args:
        found: The numbers, as JSON has them.
        pairs: The worst images, of :func:`pair`.
        folder: Where to.
        config, checkpoint: What was tested.
        compare: The folder of another report on the same data, whose numbers stand beside these.

    Returns:
        The page.

    Raises:
        ValueError: the other report is of other classes.
    """
    before = read_report(compare, found['kind']) if compare else None
    if before and before['classes'] != found['classes']:
        raise ValueError(f'{compare} is a report on other classes')
    found = dict(
        found,
        config=config,
        checkpoint=checkpoint,
        date=f'{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}',
        mlp_backbones=__version__,
    )
    facts = dict(
        Checkpoint=checkpoint,
        Config=config,
        Data=f'{found["images"]} images, {len(found["classes"])} classes',
        Date=found['date'],
    )
    if before:
        facts['Compared with'] = (
            f'{before["checkpoint"]} of {before["date"]}, on {before["images"]} images; its '
            'numbers are in brackets, its curves are dashed'
        )
    template = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(
        Path(__file__).with_name('page.html').read_text(encoding='utf-8')
    )
    page = template.render(
        title=f'{Path(checkpoint).name}: {found["kind"]}',
        facts=facts,
        sections=[*sections(found, before), worst(found, pairs)],
    )
    write(Path(folder, 'report.json'), json.dumps(found))
    return write(Path(folder, 'report.html'), page)


def sections(found: dict[str, Any], before: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The parts of the page, in order."""
    is_detection = found['kind'] == 'detection'
    rows = [
        {'': KINDS[kind]} | _beside(values, before and before['metrics'].get(kind), is_detection)
        for kind, values in found['metrics'].items()
    ]
    made: list[dict[str, Any]] = [dict(title='Summary', rows=rows)]
    for kind, lines in found['curves'].items() if is_detection else ():
        made.append(_curves(kind, lines, found, before))
    for kind, rows in found['by_class'].items():
        others = {x['class']: x for x in (before['by_class'].get(kind, []) if before else ())}
        beside = [_beside(row, others.get(row['class']), is_detection) for row in rows]
        note = SIZES_NOTE if is_detection else PIXELS_NOTE
        made.append(dict(title=f'{KINDS[kind]} by class', note=note, rows=beside))
    names = [*found['classes'], *(['background'] if is_detection else [])]
    note = 'Each row is a true class; colours and numbers are percent of it.'
    if is_detection:
        note += MATCH_NOTE.format(**found['confusion'])
    tables = {'': found} if not before else {'this run': found, 'the other': before}
    drawn = {
        caption: Markup(charts.matrix(np.array(x['confusion']['matrix']), names))
        for caption, x in tables.items()
    }
    made.append(dict(title='Confusion matrix', note=note, charts=drawn))
    rows = confused(np.array(found['confusion']['matrix']), names)
    if rows:
        made.append(dict(title='Most frequent confusions', rows=rows))
    return made


def confused(matrix: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """The cells off the diagonal that hold most."""
    wrong = matrix - np.diag(np.diag(matrix))
    most = np.argsort(wrong, axis=None, kind='stable')[::-1][:SHOWN_CONFUSIONS]
    cells = (np.unravel_index(i, wrong.shape) for i in most)
    return [
        {
            'true': names[i],
            'predicted': names[j],
            'count': f'{wrong[i, j]:,}',
            'of the true class': f'{100 * wrong[i, j] / matrix[i].sum():.1f} %',
        }
        for i, j in cells
        if wrong[i, j]
    ]


def _curves(kind: str, lines: dict, found: dict, before: dict | None) -> dict[str, Any]:
    other = (before or {}).get('curves', {}).get(kind)
    mean = {f'IoU {iou}': y for iou, y in lines['mean'].items()}
    mean_before = other and {f'IoU {iou}': y for iou, y in other['mean'].items()}
    most = sorted(found['by_class'][kind], key=lambda row: -row['objects'])
    shown = [row['class'] for row in most if row['class'] in lines['by_class']][:SHOWN_CURVES]
    by_class = {name: lines['by_class'][name] for name in shown}
    rest = len(lines['by_class']) - len(shown)
    caption = 'By class, at IoU 0.5'
    if rest:
        caption += f': the {len(shown)} with the most objects; report.json has the other {rest}'
    drawn = {
        'Mean of the classes': charts.curves(lines['recall'], mean, mean_before),
        caption: charts.curves(lines['recall'], by_class, other and other['by_class']),
    }
    return dict(
        title=f'{KINDS[kind]}: precision and recall',
        charts={text: Markup(chart) for text, chart in drawn.items()},
    )


def _beside(row: dict, other: dict | None, in_percent: bool) -> dict[str, Any]:
    """The cells of a row, with the other run's number and whether this one is better."""
    cells: dict[str, Any] = {}
    for name, value in row.items():
        if name in FIXED:
            cells[name] = f'{value:.1f}' if isinstance(value, float) else value
            continue
        factor = 100 if in_percent else 1
        text = '–' if value is None else f'{factor * value:.1f}'
        if other and other.get(name) is not None and value is not None:
            change = factor * (value - other[name])
            kind = 'up' if change > 0.05 else 'down' if change < -0.05 else 'same'
            text = Markup('{} <span class="{}">({:.1f})</span>').format(
                text, kind, factor * other[name]
            )
        cells[name] = text
    return cells


def worst(found: dict[str, Any], pairs: list[dict[str, str]]) -> dict[str, Any]:
    if found['kind'] == 'detection':
        confusion = found['confusion']
        what = (
            f'by F1 at a score of {confusion["score"]} and an IoU of {confusion["iou"]}; a box of '
            'the wrong class is missed and false'
        )
    else:
        what = 'by the mean IoU of the classes in it'
    return dict(
        title='Worst images',
        note=f'{what[0].upper()}{what[1:]}. Ground truth left, prediction right.'
        if pairs
        else 'No image has an error.',
        pairs=pairs,
    )
