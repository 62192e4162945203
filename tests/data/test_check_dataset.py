"""Every bad data set that tools/check_dataset.py knows, found with the file and the entry."""

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from folders import CLASSES, content, put, put_maps
from in_process import run_tool
from mmengine.config import Config
from PIL import Image

from mlp_backbones import config_path
from mlp_backbones.data import use_data
from mlp_backbones.data.check import check_dataset
from mlp_backbones.data.coco import find_coco
from mlp_backbones.data.sheet import draw_sheet

ROOT = Path(__file__).resolve().parents[2]


def entry(key, index, **values):
    """Change an entry of train.json."""

    def edit(root):
        data = json.loads((root / 'train.json').read_text())
        data[key][index].update(values)
        (root / 'train.json').write_text(json.dumps(data))

    return edit


def image(path, pixels):
    return lambda root: cv2.imwrite(str(root / path), pixels)


def cut(path, size):
    return lambda root: (root / path).write_bytes((root / path).read_bytes()[:size])


def text(path, content):
    return lambda root: (root / path).write_text(content)


def turned(root):
    """A photograph on its side, as cameras save them: mmcv turns it."""
    exif = Image.Exif()
    exif[274] = 6
    Image.new('RGB', (64, 48)).save(root / 'images/1.jpg', exif=exif)
    entry('images', 1, file_name='1.jpg')(root)


def copied(source, target):
    return lambda root: (root / target).write_bytes((root / source).read_bytes())


def rle(height, width):
    return dict(size=[height, width], counts=[0, height * width])


RANDOM = np.random.default_rng(0).integers(0, 255, (48, 64, 3))
BAD_COCO = {
    'zero bytes': (cut('images/1.png', 0), 'empty image file', 'images/1.png has no bytes'),
    'cut off': (cut('images/1.png', 4000), 'truncated image', 'images/1.png cannot be read'),
    'no image': (text('images/1.png', 'x'), 'unreadable image', '1.png is not an image'),
    'gone': (
        lambda root: (root / 'images/1.png').unlink(),
        'missing image',
        'images/1.png does not exist',
    ),
    '16 bits': (
        image('images/1.png', np.full((48, 64), 4000, np.uint16)),
        '16-bit image',
        'its largest, 4000, becomes 15',
    ),
    'size': (
        image('images/1.png', RANDOM[:, :32]),
        'wrong size',
        'images/1.png has 32 x 48 pixels, .*train.json says 64 x 48',
    ),
    'turned': (turned, 'wrong size', '1.jpg has 48 x 64 pixels'),
    'empty box': (entry('annotations', 3, bbox=[4, 4, 0.5, 9]), 'empty box', 'id 4 has a bbox of'),
    'outside': (
        entry('annotations', 3, bbox=[70, 4, 9, 9]),
        'box outside its image',
        r'id 4 has the bbox \[70, 4, 9, 9\] in 64 x 48 pixels: mmdet leaves it out',
    ),
    'partly': (
        entry('annotations', 3, bbox=[50, 4, 20, 9]),
        'box partly outside its image',
        r'id 4 has the bbox \[50, 4, 20, 9\]',
    ),
    'no box': (entry('annotations', 3, bbox=[4, 4, None, 9]), 'no box', 'id 4 has no bbox'),
    'not a number': (entry('annotations', 3, bbox=[4, 4, float('nan'), 9]), 'no box', 'id 4 has'),
    'two points': (
        entry('annotations', 3, segmentation=[[1, 1, 5, 5]]),
        'degenerate mask',
        'id 4 has 1 of 1 polygons without 3 points or an area',
    ),
    'a line': (
        entry('annotations', 3, segmentation=[[1, 1, 5, 5, 9, 9]]),
        'degenerate mask',
        'id 4 has 1 of 1 polygons',
    ),
    'mask size': (
        entry('annotations', 3, segmentation=rle(64, 48)),
        'mask of another size',
        r'id 4 has a mask of \(height, width\) \[64, 48\], its image \[48, 64\]',
    ),
    'no mask': (entry('annotations', 3, segmentation=[]), 'masks', 'id 4 has no segmentation'),
    'image id': (entry('annotations', 3, image_id=77), 'unknown image_id', 'id 4 has image_id 77'),
    'category id': (
        entry('annotations', 3, category_id=[7]),
        'unknown category_id',
        r'id 4 has category_id \[7\], which is none',
    ),
    'id twice': (entry('annotations', 3, id=1), 'id twice', '2 of the annotations have the id 1'),
    'no id': (entry('images', 1, id=None), 'entry without id', '1 of the images have no id'),
    'file twice': (
        entry('images', 1, file_name='0.png'),
        'image listed twice',
        '2 images have the file_name 0.png',
    ),
    'no file name': (
        entry('images', 1, file_name=None),
        'image without file_name',
        'image of id 1 has no file_name',
    ),
    'no size': (
        entry('images', 1, width=None),
        'image without size',
        'image of id 1 has no width and height',
    ),
    'categories': (
        entry('categories', 0, name='Cell'),
        'categories',
        'val.json has other categories than .*train.json',
    ),
    'category twice': (
        entry('categories', 0, name='platelet'),
        'category name',
        '2 categories have the name platelet',
    ),
    'leak': (
        copied('images/0.png', 'images/5.png'),
        'a training image in another part',
        'images/5.png is the same image as .*images/0.png',
    ),
    'twice': (
        copied('images/0.png', 'images/1.png'),
        'the same image twice',
        'images/1.png is the same image as .*images/0.png',
    ),
    'json': (cut('val.json', 100), 'broken annotation file', 'val.json is not valid JSON'),
}
WARNINGS = ('empty box', 'outside', 'partly', 'two points', 'a line', 'twice', '16 bits')


@pytest.fixture
def coco(tmp_path):
    """Images 0 to 3 to train, 4 and 5 to evaluate."""
    data = content(6)
    for part, ids in (('train', {0, 1, 2, 3}), ('val', {4, 5})):
        chosen = dict(data, images=[x for x in data['images'] if x['id'] in ids])
        chosen['annotations'] = [x for x in data['annotations'] if x['image_id'] in ids]
        put(tmp_path / 'set', f'{part}.json', 'images', chosen)
    return tmp_path / 'set'


@pytest.mark.parametrize('name', BAD_COCO)
def test_what_is_wrong_with_coco_is_found(name, coco):
    edit, kind, message = BAD_COCO[name]
    edit(coco)
    report = check_dataset(coco)
    (found,) = [problem for problem in report.problems if problem.kind == kind]
    assert re.search(message, found.text) and str(coco) in found.text
    assert found.is_error == (name not in WARNINGS) == bool(report.errors)
    assert found.text in report.text()
    if name in ('zero bytes', 'two points', 'mask size'):
        assert draw_sheet(report, coco / 'sheet.png') == 4


@pytest.mark.parametrize('name', sorted({*BAD_COCO} - {'leak', 'twice', 'cut off'}))
def test_training_refuses_it_or_warns(name, coco, tmp_path):
    edit, kind, _ = BAD_COCO[name]
    edit(coco)
    if name in WARNINGS:
        assert kind in [problem.kind for problem in find_coco(coco, tmp_path, 0.2, 0).warnings]
    else:
        with pytest.raises((ValueError, FileNotFoundError), match=str(coco)):
            find_coco(coco, tmp_path, 0.2, 0)


def test_a_good_folder_has_counts_and_no_problems(coco, tmp_path):
    report = check_dataset(coco)
    assert report.problems == [] and report.classes == ('cell', 'platelet')
    row = dict(small=4, medium=0, large=0, all=4, images=4)
    assert report.counts['train'] == dict(cell=row, platelet=row)
    assert report.as_json()['sizes'] == dict(train=[[64, 48, 4]], val=[[64, 48, 2]])
    assert draw_sheet(report, tmp_path / 'sheet.png', count=3) == 4  # a row is filled with white
    assert cv2.imread(str(tmp_path / 'sheet.png')).shape == (300, 1600, 3)
    assert {path.name for path in coco.iterdir()} == {'train.json', 'val.json', 'images'}


def label_map(path, pixels):
    return lambda root: Image.fromarray(pixels).save(root / path)


STRIPES = np.repeat(np.resize([0, 1, 2], 64)[None], 48, 0).astype(np.uint8)
BAD_MAPS = {
    'beyond': (
        label_map('masks/train/b.png', STRIPES + 1),
        'label out of range',
        'masks/train/b.png has label 3 in 1008 pixels; .*classes.txt names 3',
    ),
    '16 bits': (
        label_map('masks/train/b.png', STRIPES.astype(np.uint16) * 200),
        'label out of range',
        'masks/train/b.png has label 200',
    ),
    'size': (
        label_map('masks/train/b.png', STRIPES[:, :32]),
        'label map of another size',
        'masks/train/b.png has 32 x 48 pixels, its image 64 x 48',
    ),
    'colours': (
        label_map('masks/train/b.png', np.stack([STRIPES] * 3, -1)),
        'label map of several channels',
        'masks/train/b.png is a picture of 3 channels',
    ),
    'gone': (
        lambda root: (root / 'masks/train/a.png').unlink(),
        'missing label map',
        'masks/train/a.png does not exist',
    ),
    'no map': (
        cut('masks/train/b.png', 30),
        'unreadable label map',
        'masks/train/b.png cannot be read',
    ),
    'ignored': (
        label_map('masks/train/b.png', STRIPES * 0 + 255),
        'nothing to learn',
        'masks/train/b.png has 255 everywhere',
    ),
    'no image': (
        copied('masks/train/a.png', 'masks/train/z.png'),
        'label map without image',
        'masks/train/z.png has no image',
    ),
    'zero bytes': (cut('images/train/b.jpg', 0), 'empty image file', 'b.jpg has no bytes'),
    'cut off': (cut('images/train/b.jpg', 2000), 'truncated image', 'b.jpg cannot be read'),
    'leak': (
        copied('images/train/a.jpg', 'images/val/y.jpg'),
        'a training image in another part',
        'val/y.jpg is the same image as .*train/a.jpg',
    ),
    'kinds': (
        copied('images/train/a.jpg', 'images/train/a.png'),
        'images of several kinds',
        'images that end in .jpg, .png',
    ),
    'no names': (
        lambda root: (root / 'classes.txt').unlink(),
        'classes',
        'has no classes.txt: write .* the label maps have 0, 1, 2',
    ),
}


@pytest.mark.parametrize('name', BAD_MAPS)
def test_what_is_wrong_with_label_maps_is_found(name, tmp_path):
    edit, kind, message = BAD_MAPS[name]
    put_maps(tmp_path / 'images/train', tmp_path / 'masks/train', 'abcd')
    put_maps(tmp_path / 'images/val', tmp_path / 'masks/val', 'xy')
    (tmp_path / 'classes.txt').write_text(CLASSES)
    edit(tmp_path)
    report = check_dataset(tmp_path)
    found = [problem for problem in report.problems if problem.kind == kind][0]
    assert re.search(message, found.text)
    assert found.is_error == (name not in ('ignored', 'no image')) == bool(report.errors)


def test_good_label_maps_have_counts_and_no_problems(tmp_path):
    put_maps(tmp_path / 'images', tmp_path / 'masks', 'abcd')
    (tmp_path / 'classes.txt').write_text(CLASSES)
    (tmp_path / 'meta.json').write_text('{}')  # of somebody's tool
    report = check_dataset(tmp_path)
    assert report.problems == []
    row = dict(pixels=4032, images=4)
    assert report.counts['train'] == dict(sky=dict(row, pixels=4224), road=row, car=row)
    assert draw_sheet(report, tmp_path / 'sheet.png') == 4


def test_a_config_is_checked(coco, tmp_path):
    cfg = Config.fromfile(config_path('gmlp_maskrcnn_coco.py'))
    use_data(cfg, coco, tmp_path)
    assert check_dataset(cfg).images == dict(train=4, val=2)
    entry('annotations', 3, category_id=9)(coco)
    cfg.val_dataloader.dataset.metainfo.classes = ('platelet', 'cell')
    kinds = [problem.kind for problem in check_dataset(cfg).errors]
    assert kinds == ['unknown category_id', 'categories']
    entry('annotations', 3, category_id=1, segmentation=[])(coco)
    assert 'masks' in [problem.kind for problem in check_dataset(cfg).errors]
    cfg.train_dataloader.dataset.pipeline[1].with_mask = False
    cfg.val_dataloader.dataset.pipeline[2].with_mask = False
    cfg.test_dataloader = None
    assert 'masks' in {x.kind for x in check_dataset(cfg).problems if not x.is_error}
    cfg.train_dataloader.dataset.type = 'VOCDataset'
    with pytest.raises(ValueError, match='train_dataloader.dataset is a VOCDataset; .* COCO'):
        check_dataset(cfg)


@pytest.mark.parametrize('names', ['sky\nroad\ncar', 'ignore\nroad\ncar', 'sky\nignore\ncar'])
def test_a_config_with_label_maps_is_checked(names, tmp_path):
    put_maps(tmp_path / 'images', tmp_path / 'masks', 'abcd', labels=(0, 1, 2, 255))
    (tmp_path / 'classes.txt').write_text(names)
    cfg = Config.fromfile(config_path('gmlp_upernet_ade20k.py'))
    found = use_data(cfg, tmp_path, tmp_path / 'run')
    report = check_dataset(cfg)
    assert report.classes == found.classes and not report.errors
    pixels = [row['pixels'] for row in report.counts['train'].values()]
    assert pixels == found.pixels['train'].tolist()
    Image.fromarray(STRIPES + 1).save(tmp_path / 'masks/a.png')
    (error,) = check_dataset(cfg).errors
    assert 'has label 3' in error.text and f'has {len(found.classes)} classes' in error.text


def test_the_tool(coco, tmp_path, monkeypatch):
    out = ['--json', tmp_path / 'a.json', '--sheet', tmp_path / 'a.png']
    command = [sys.executable, ROOT / 'tools/check_dataset.py', coco, *out]
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, ''), run.stderr
    assert 'train: 4 images' in run.stdout and 'no problems' in run.stdout
    assert (tmp_path / 'a.png').is_file()
    cut('images/1.png', 0)(coco)
    assert run_tool(monkeypatch, 'check_dataset.py', coco, *out) == 1
    (problem,) = json.loads((tmp_path / 'a.json').read_text())['problems']
    assert problem['kind'] == 'empty image file' and problem['file'].endswith('images/1.png')
    message = run_tool(monkeypatch, 'check_dataset.py', tmp_path / 'x')
    assert message.startswith('check_dataset.py: there is no config')
    message = run_tool(monkeypatch, 'check_dataset.py', coco, '--sheet', 'a.txt')
    assert 'its name must end in .png' in message


def test_a_folder_without_either_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='has no annotations .*\n.*has no images'):
        check_dataset(tmp_path)
