"""The report of tools/test.py: its numbers are the metrics', and a browser shows its page."""

import json
import re
import runpy
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from PIL import Image
from pycocotools import mask as rle
from small_models import CLASSES, CONFIGS, PALETTE, ROOT, save_small, small_config

from mlp_backbones.registry import METRICS
from mlp_backbones.reports.page import confused

COLOURS = np.array(PALETTE, np.uint8)
SIZE = (48, 64)


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    """Six images with a few rectangles of three classes each, in COCO's format."""
    root = tmp_path_factory.mktemp('coco')
    random = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(6):
        image = np.full((*SIZE, 3), 128, np.uint8)
        for _ in range(1 + i % 3):
            x, y = (int(v) for v in random.integers(0, 30, 2))
            w, h = (int(v) for v in random.integers(8, 18, 2))
            label = int(random.integers(0, 2))  # blue is never there
            image[y : y + h, x : x + w] = COLOURS[label][::-1]
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotations.append(
                dict(id=len(annotations) + 1, image_id=10 + i, category_id=7 - label, iscrowd=0,
                     bbox=[x, y, w, h], area=w * h, segmentation=[corners])
            )  # fmt: skip
        cv2.imwrite(str(root / f'{i}.png'), image)
        images.append(dict(id=10 + i, file_name=f'{i}.png', width=SIZE[1], height=SIZE[0]))
    # the ids are in another order than the labels
    categories = [dict(id=7 - i, name=name) for i, name in enumerate(CLASSES['mmdet'])]
    content = dict(images=images, annotations=annotations, categories=categories)
    (root / 'annotations.json').write_text(json.dumps(content))
    return root


def detections(coco, seed, noise=2.0):
    """Data samples of a model that shifts boxes a little, confuses, misses and invents some."""
    random = np.random.default_rng(seed)
    content = json.loads((coco / 'annotations.json').read_text())
    samples = []
    for image in content['images']:
        boxes, labels, scores = [], [], []
        for x in content['annotations']:
            if x['image_id'] == image['id'] and random.random() > 0.2:
                left, top, width, height = x['bbox']
                box = np.array([left, top, left + width, top + height]) + random.normal(
                    0, noise, 4
                )
                boxes.append(box.clip(0, [64, 48, 64, 48]))
                labels.append(7 - x['category_id'] if random.random() > 0.3 else 2)
                scores.append(random.uniform(0.2, 1))
        boxes.append([1, 1, 12, 12])
        labels.append(0)
        scores.append(0.5)
        masks = np.zeros((len(boxes), *SIZE), bool)
        for mask, (left, top, right, bottom) in zip(masks, np.array(boxes).round(), strict=True):
            mask[int(top) : int(bottom), int(left) : int(right)] = True
        pred = InstanceData(
            bboxes=torch.tensor(np.array(boxes), dtype=torch.float32),
            labels=torch.tensor(labels),
            scores=torch.tensor(scores),
            masks=torch.from_numpy(masks),
        )
        samples.append(
            dict(img_id=image['id'], ori_shape=SIZE, pred_instances=pred,
                 img_path=str(coco / image['file_name']))
        )  # fmt: skip
    return samples


def detection_report(coco, folder, seed=0, keep=True, **report):
    init_default_scope('mmdet')
    metric = METRICS.build(
        dict(
            type='mlp_backbones.ReportingCocoMetric',
            ann_file=str(coco / 'annotations.json'),
            metric=['bbox', 'segm'],
            results=str(folder / 'results.json'),
            report=dict(folder=str(folder), config='c.py', checkpoint='best.pth', **report),
        )
    )
    metric.dataset_meta = dict(classes=CLASSES['mmdet'], palette=PALETTE)
    samples = detections(coco, seed)
    if not keep:
        samples = [dict(x, pred_instances=x['pred_instances'][:0]) for x in samples]
    metric.process({}, samples)
    metrics = metric.evaluate(len(samples))
    return metrics, json.loads((folder / 'report.json').read_text())


def test_numbers_of_a_detector_are_those_of_the_metric(coco, tmp_path):
    metrics, report = detection_report(coco, tmp_path)
    names = dict(AP='mAP', AP50='mAP_50', AP75='mAP_75')
    names |= {f'AP {size}': f'mAP_{size[0]}' for size in ('small', 'medium', 'large')}
    for kind in ('bbox', 'segm'):
        for ours, theirs in names.items():
            value = report['metrics'][kind][ours]
            value = -1 if value is None else round(value, 3)
            assert value == pytest.approx(metrics[f'coco/{kind}_{theirs}'], abs=1e-9)
        rows = report['by_class'][kind]
        known = [row['AP'] for row in rows if row['AP'] is not None]
        assert np.mean(known) == pytest.approx(report['metrics'][kind]['AP'], abs=1e-4)
        assert rows[2]['class'] == 'blue' and rows[2]['objects'] == 0 and rows[2]['AP'] is None
        curves = report['curves'][kind]
        assert len(curves['recall']) == 101 and set(curves['by_class']) == {'red', 'green'}
        for name, y in curves['by_class'].items():
            row = rows[CLASSES['mmdet'].index(name)]
            assert np.mean(y) == pytest.approx(row['AP50'], abs=1e-4)
    matrix = np.array(report['confusion']['matrix'])
    content = json.loads((coco / 'annotations.json').read_text())
    objects = [sum(x['category_id'] == 7 - i for x in content['annotations']) for i in range(3)]
    assert matrix[:3].sum(1).tolist() == objects
    found = [x for x in json.loads((tmp_path / 'results.json').read_text()) if x['score'] >= 0.3]
    given = [sum(x['category_id'] == 7 - i for x in found) for i in range(3)]
    assert matrix[:, :3].sum(0).tolist() == given
    images = report['images_with_errors']
    assert sum(x['missed'] for x in images) == matrix[:3].sum() - np.trace(matrix[:3, :3])
    assert [x['f1'] for x in images] == sorted(x['f1'] for x in images)


def test_a_detector_that_finds_nothing_has_a_report(coco, tmp_path):
    _, report = detection_report(coco, tmp_path, keep=False)
    assert report['metrics'] == {} and len(report['images_with_errors']) == 6
    assert all(x['right'] == x['false'] == 0 for x in report['images_with_errors'])
    assert (tmp_path / 'report.html').read_text().count('<img') == 12


def test_results_of_a_detector_have_boxes_and_masks(coco, tmp_path):
    detection_report(coco, tmp_path)
    results = json.loads((tmp_path / 'results.json').read_text())
    assert len(results) == sum(len(x['pred_instances']) for x in detections(coco, 0))
    first = results[0]
    assert first['image_id'] == 10 and first['category_id'] in (5, 6, 7)
    left, top, width, height = first['bbox']
    area = rle.area(first['segmentation'])
    assert abs(area - width * height) < 2 * (width + height)


def label_maps(seed):
    random = np.random.default_rng(seed)
    samples = []
    for i in range(5):
        truth = random.integers(0, 2, SIZE)  # never a tree
        truth[:5] = 255
        predicted = np.where(
            random.random(SIZE) < 0.1 * (i + 1), random.integers(0, 3, SIZE), truth
        )
        predicted[predicted == 255] = 0
        samples.append(
            dict(
                gt_sem_seg=dict(data=torch.from_numpy(truth)[None]),
                pred_sem_seg=dict(data=torch.from_numpy(predicted)[None]),
                img_path=f'{i}.png',
            )
        )
    return samples


def segmentation_report(coco, folder, seed=0, **report):
    init_default_scope('mmseg')
    from mmseg.evaluation import IoUMetric

    report = dict(folder=str(folder), config='c.py', checkpoint='best.pth', **report)
    metrics = [
        METRICS.build(dict(type='mlp_backbones.SegmentationReport', report=report)),
        IoUMetric(),
    ]
    results = {}
    for metric in metrics:
        metric.dataset_meta = dict(classes=CLASSES['mmseg'], palette=PALETTE)
        samples = [dict(x, img_path=str(coco / x['img_path'])) for x in label_maps(seed)]
        metric.process({}, samples)
        results |= metric.evaluate(len(samples))
    return results, json.loads((folder / 'report.json').read_text())


def test_numbers_of_a_segmentor_are_those_of_the_metric(coco, tmp_path):
    metrics, report = segmentation_report(coco, tmp_path)
    for name in ('mIoU', 'aAcc', 'mAcc'):
        assert report['metrics']['pixels'][name] == pytest.approx(metrics[name], abs=0.0051)
    rows = report['by_class']['pixels']
    assert rows[2]['pixels'] == 0 and rows[2]['accuracy'] is None and rows[2]['IoU'] == 0
    matrix = np.array(report['confusion']['matrix'])
    assert matrix.sum() == 5 * (SIZE[0] - 5) * SIZE[1]
    assert [x['file_name'][-5:] for x in report['images_with_errors']] == [
        f'{i}.png' for i in (4, 3, 2, 1, 0)
    ]


def test_confusions_are_listed_by_their_number():
    rows = confused(np.array([[5, 3, 0], [1, 0, 9], [0, 0, 0]]), 'abc')
    assert [(x['true'], x['predicted'], x['count']) for x in rows] == [
        ('b', 'c', '9'),
        ('a', 'b', '3'),
        ('b', 'a', '1'),
    ]
    assert rows[1]['of the true class'] == '37.5 %'


def test_two_runs_stand_side_by_side(coco, tmp_path):
    one, two, other = tmp_path / '1', tmp_path / '2', tmp_path / '3'
    _, before = detection_report(coco, one)
    _, report = detection_report(coco, two, seed=1, compare=str(one))
    page = (two / 'report.html').read_text()
    ours, theirs = (100 * x['metrics']['bbox']['AP'] for x in (report, before))
    kind = 'up' if ours > theirs else 'down'
    assert f'<td>{ours:.1f} <span class="{kind}">({theirs:.1f})</span></td>' in page
    assert page.count('<figcaption>the other') == page.count('<figcaption>this run') == 1
    segmentation_report(coco, other)
    with pytest.raises(ValueError, match='is a report of segmentation, this is one of detection'):
        detection_report(coco, two, compare=str(other))
    with pytest.raises(FileNotFoundError, match='holds no report'):
        detection_report(coco, two, compare=str(coco))


@pytest.mark.parametrize('make', [detection_report, segmentation_report])
def test_the_page_needs_nothing_else(make, coco, tmp_path):
    make(coco, tmp_path)
    page = (tmp_path / 'report.html').read_text()
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert links and all(x.startswith(('data:image/', '#')) for x in links)
    assert not re.search(r'url\((?!#)|<script|@import', page)
    ids = re.findall(r' id="([^"]*)"', page)
    assert ids and len(ids) == len(set(ids)), 'two charts would share what they refer to'


# A page that loads the report as wide as a screen, and says how it looks there.
PROBE = """<body><iframe src="report.html" style="width: WIDTHpx; height: 900px"></iframe><script>
window.onload = () => {
  const page = document.querySelector('iframe').contentDocument;
  const root = page.documentElement;
  const box = (x) => x.getBoundingClientRect();
  document.body.textContent = 'FOUND ' + JSON.stringify({
    width: root.clientWidth,
    scroll: root.scrollWidth,
    images: [...page.images].map((x) => x.naturalWidth),
    charts: [...page.querySelectorAll('svg')].map((x) => box(x).height),
    text: Math.min(...[...page.querySelectorAll('p, td, dd')].map(
      (x) => parseFloat(page.defaultView.getComputedStyle(x).fontSize))),
  });
};</script></body>"""


@pytest.mark.parametrize('make', [detection_report, segmentation_report])
@pytest.mark.parametrize('width', [390, 1280])
def test_a_browser_shows_it(make, width, coco, tmp_path):
    browser = next(filter(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')), None)
    if browser is None:
        pytest.skip('there is no browser: apt-get install chromium')
    make(coco, tmp_path)
    (tmp_path / 'probe.html').write_text(PROBE.replace('WIDTH', str(width)))
    result = subprocess.run(
        [browser, '--headless', '--no-sandbox', '--disable-gpu', '--allow-file-access-from-files',
         f'--user-data-dir={tmp_path}/profile', '--virtual-time-budget=5000', '--dump-dom',
         f'--window-size={width + 100},1000', f'file://{tmp_path}/probe.html'],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r'FOUND (\{.*?\})<', result.stdout)
    assert found, result.stdout[-500:] + result.stderr[-2000:]
    page = json.loads(found[1])
    assert page['width'] <= width and page['scroll'] <= page['width'], 'it scrolls sideways'
    assert len(page['images']) == 2 * min(12, 6 if make is detection_report else 5)
    assert all(page['images']) and page['charts'] and min(page['charts']) > 200
    assert page['text'] >= 14


def run_test(monkeypatch, *words):
    monkeypatch.setattr(sys, 'argv', ['test.py', *map(str, words)])
    monkeypatch.setenv('LOCAL_RANK', '0')
    runpy.run_path(str(ROOT / 'tools' / 'test.py'), run_name='__main__')


@pytest.fixture(scope='module')
def trained(coco, tmp_path_factory):
    """A config and a checkpoint of each task, on the images above: {scope: (config, file)}."""
    folder = tmp_path_factory.mktemp('trained')
    (folder / 'maps').mkdir()
    for i in range(6):
        Image.fromarray(np.full(SIZE, i % 3, np.uint8)).save(folder / 'maps' / f'{i}.png')
    found = {}
    for scope in CONFIGS:
        cfg = small_config(scope)
        dataset, loader = cfg.test_dataloader.dataset, cfg.test_dataloader
        loader.update(num_workers=0, persistent_workers=False)
        dataset.data_root = ''
        if scope == 'mmdet':
            dataset.update(
                ann_file=str(coco / 'annotations.json'), data_prefix=dict(img=str(coco))
            )
            cfg.test_evaluator.ann_file = dataset.ann_file
            cfg.model.test_cfg.rcnn.score_thr = 0.0
        else:
            prefix = dict(img_path=str(coco), seg_map_path=str(folder / 'maps'))
            dataset.update(data_prefix=prefix, img_suffix='.png', seg_map_suffix='.png')
        cfg.train_dataloader = cfg.train_cfg = cfg.optim_wrapper = cfg.param_scheduler = None
        cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
        cfg.dump(folder / f'{scope}.py')
        found[scope] = (folder / f'{scope}.py', save_small(scope, folder / f'{scope}.pth'))
    return found


@pytest.mark.parametrize('scope', CONFIGS)
def test_the_tool_writes_a_report(scope, trained, tmp_path, monkeypatch):
    config, checkpoint = trained[scope]
    out = tmp_path / ('results.json' if scope == 'mmdet' else 'maps')
    words = [config, checkpoint, '--work-dir', tmp_path / 'work', '--out', out]
    run_test(monkeypatch, *words, '--report', tmp_path / 'a')
    run_test(monkeypatch, *words, '--report', tmp_path / 'b', '--compare', tmp_path / 'a')
    one, two = (json.loads((tmp_path / x / 'report.json').read_text()) for x in 'ab')
    assert one['images'] == 6 and one['metrics'] == two['metrics']
    assert one['checkpoint'] == checkpoint and one['config'] == str(config)
    assert len(json.loads(out.read_text())) if scope == 'mmdet' else len(list(out.iterdir())) == 6
    assert 'Compared with' in (tmp_path / 'b' / 'report.html').read_text()


def test_mistakes_are_said_before_anything_is_tested(trained, tmp_path, monkeypatch):
    (det, det_file), (seg, seg_file) = trained['mmdet'], trained['mmseg']
    (tmp_path / 'other').mkdir()
    other = dict(kind='detection', classes=['cat', 'dog'])
    (tmp_path / 'other' / 'report.json').write_text(json.dumps(other))
    (tmp_path / 'broken').mkdir()
    (tmp_path / 'broken' / 'report.json').write_text('{')
    (tmp_path / 'file').touch()
    cfg = Config.fromfile(det)
    cfg.test_evaluator = dict(type='VOCMetric')
    cfg.dump(tmp_path / 'voc.py')
    report = ['--report', tmp_path / 'new']
    cases = [
        ([det, det_file, '--compare', tmp_path], 'needs --report FOLDER'),
        ([det, det_file, *report, '--compare', tmp_path], 'holds no report'),
        ([det, det_file, *report, '--compare', tmp_path / 'new'], 'is the folder that --report'),
        ([det, det_file, *report, '--compare', tmp_path / 'broken'], 'is not a report of tools'),
        ([det, det_file, *report, '--compare', tmp_path / 'other'], 'is of 2 classes (cat, dog'),
        ([seg, seg_file, *report, '--compare', tmp_path / 'other'], 'is a report of detection'),
        ([det, det_file, '--report', tmp_path / 'file'], 'is a file; give a folder'),
        ([tmp_path / 'voc.py', det_file, *report], '--report needs a CocoMetric'),
        ([seg, seg_file, '--out', 'a.json'], 'are label maps, PNG files'),
    ]
    for words, message in cases:
        with pytest.raises(SystemExit) as end:
            run_test(monkeypatch, *words, '--work-dir', tmp_path / 'work')
        text = str(end.value)
        assert text.startswith('test.py: ') and message in text and '\n' not in text, text
    assert not (tmp_path / 'new').exists() and not (tmp_path / 'work').exists()
