"""BCCD as it is fetched, and what trains on it."""

import csv
import json
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'tools'))

import bccd_study
import demo
import draw_weights
import get_bccd
import resolution_study

BOX = '<object><name>{}</name><bndbox>{}</bndbox></object>'


def corners(*numbers):
    names = ('xmin', 'ymin', 'xmax', 'ymax')
    return ''.join(f'<{n}>{x}</{n}>' for n, x in zip(names, numbers, strict=True))


@pytest.fixture(scope='module')
def archive(tmp_path_factory):
    """A repository like BCCD's, with two images in each part."""
    path = tmp_path_factory.mktemp('bccd') / 'master.zip'
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, 'w') as files:
        for i, part in enumerate(get_bccd.PARTS):
            names = [f'BloodImage_{2 * i + j:05}' for j in (0, 1)]
            top = 'BCCD_Dataset-master/BCCD'
            files.writestr(f'{top}/ImageSets/Main/{part}.txt', '\n'.join(names) + '\n')
            for name in names:
                image = rng.integers(0, 256, (96, 128, 3), np.uint8)
                content = cv2.imencode('.jpg', image)[1].tobytes()
                files.writestr(f'{top}/JPEGImages/{name}.jpg', content)
                size = '<size><width>128</width><height>96</height></size>'
                boxes = BOX.format('WBC', corners(11, 21, 60, 80))
                boxes += BOX.format('RBC', corners(5, 5, 5, 5))  # empty
                files.writestr(
                    f'{top}/Annotations/{name}.xml', f'<annotation>{size}{boxes}</annotation>'
                )
    return path


@pytest.fixture(scope='module')
def cells(archive):
    root = archive.parent / 'cells'
    get_bccd.get_bccd(root, str(archive))
    return root


def test_bccd_becomes_coco(cells):
    assert get_bccd.is_complete(cells)
    content = json.loads((cells / 'val/_annotations.coco.json').read_text())
    assert [image['file_name'] for image in content['images']] == [
        'BloodImage_00002.jpg',
        'BloodImage_00003.jpg',
    ]
    assert all((cells / 'val' / image['file_name']).is_file() for image in content['images'])
    boxes = [(a['image_id'], a['category_id'], a['bbox']) for a in content['annotations']]
    assert boxes == [(0, 2, [10, 20, 49, 59]), (1, 2, [10, 20, 49, 59])]  # Pascal's end at 59, 79


def test_what_is_no_archive_of_bccd_is_named(tmp_path, archive):
    with pytest.raises(OSError, match='gone.zip cannot be fetched: .*path with --archive'):
        get_bccd.get_bccd(tmp_path / 'a', (tmp_path / 'gone.zip').as_uri())
    (tmp_path / 'page.zip').write_text('<html>')
    with pytest.raises(ValueError, match='page.zip is not an archive of BCCD'):
        get_bccd.get_bccd(tmp_path / 'a', str(tmp_path / 'page.zip'))
    assert not get_bccd.is_complete(tmp_path / 'a')
    get_bccd.get_bccd(tmp_path / 'a', archive.as_uri())  # an address
    assert get_bccd.is_complete(tmp_path / 'a')


def run(monkeypatch, tool, *arguments):
    monkeypatch.setattr(sys, 'argv', ['tool', *map(str, arguments)])
    tool.main()


def test_the_demo_on_real_images(cells, tmp_path, monkeypatch, capsys):
    work_dir = tmp_path / 'run'
    options = [
        'train_cfg.max_iters=2',
        'train_cfg.val_interval=2',
        'train_dataloader.batch_size=2',
    ]
    options += [f'{loop}_dataloader.num_workers=0' for loop in ('train', 'val')]
    options += [f'{loop}_dataloader.persistent_workers=False' for loop in ('train', 'val')] + [
        'default_hooks.checkpoint.interval=2',
        'default_hooks.logger.interval=1',
    ]
    arguments = ['--task', 'real', '--family', 's2mlp', '--data-root', cells]
    run(monkeypatch, demo, *arguments, '--work-dir', work_dir, '--cfg-options', *options)
    text = capsys.readouterr().out
    assert 'On 2 held-out images' in text and 'box AP50' in text
    assert (work_dir / 'iter_2.pth').is_file() and 'iter_2.pth' in text
    assert {cv2.imread(str(work_dir / f'{n}.png')) is None for n in ('predictions', 'curves')} == {
        False
    }


def test_a_demo_from_weights_that_are_not_there_ends_before_it_begins(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match='this project has no weights for PlainViT'):
        run(monkeypatch, demo, '--family', 'vit', '--pretrained', '--data-root', tmp_path / 'no')
    assert not (tmp_path / 'no').exists()


def test_the_study_on_bccd(cells, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'bccd.csv'
    for _ in range(2):  # the second has nothing to do
        run(monkeypatch, bccd_study, cells, '--out', out, '--rows', 'ResNet', '--iters', 1)
    (row,) = csv.DictReader(out.open())
    assert row['row'] == 'ResNet-18 (conv)' and row['iters'] == '1'
    capsys.readouterr()
    run(monkeypatch, bccd_study, '--out', out, '--report')
    assert '| ResNet-18 (conv) | 1 |' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='name the folder'):
        run(monkeypatch, bccd_study)


def test_weights_are_drawn(tmp_path, monkeypatch, capsys):
    for name, offset in (('gmlp', 0), ('resnet18', 1)):
        log = tmp_path / name / '20260101/vis_data/scalars.json'
        log.parent.mkdir(parents=True)
        (tmp_path / name / f'{name}_nano_tiny_imagenet.py').touch()
        rows = [dict(loss=5 - i / 10, step=50 * i, time=1) for i in range(1, 20)]
        rows += [{'accuracy/top1': 10 * i + offset, 'step': i} for i in (1, 2)]
        log.write_text('\n'.join(map(json.dumps, rows)))
    with (tmp_path / 'study.csv').open('w') as file:
        writer = csv.writer(file)
        writer.writerow(['row', 'seed', 'iters', 'params', 'train_s', *resolution_study.SCALES])
        for suffix in (', multi-scale', ', multi-scale, pre-trained'):
            writer.writerow([f'ShiftGMLP{suffix}', 0, 2100, 2.12, 500, 30, 31, 32, 33, 34])
    runs = [tmp_path / 'gmlp', tmp_path / 'resnet18']
    arguments = ['--study', tmp_path / 'study.csv', '--rounds', 1, '--out', tmp_path]
    run(monkeypatch, draw_weights, '--runs', *runs, *arguments)
    assert 'Swin (attention)' in capsys.readouterr().out
    for name in ('weights_curves', 'weights_transfer'):
        assert cv2.imread(str(tmp_path / f'{name}.png')) is not None
