"""Broken images and annotations in a training, by mmdet's and mmseg's own pipelines."""

import json
import os

import cv2
import mmcv
import numpy as np
import pytest
import torch
import toy_training as toy
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from torch.utils.data import DataLoader

from mlp_backbones.engine.bad_data import (
    BadDataHook,
    DataError,
    base_datasets,
    explain_worker,
    wrong_annotations,
)

mmdet = pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

BOX = dict(iscrowd=0, category_id=1)
# Annotations that mmdet leaves out by itself.
ODD = [
    dict(BOX, bbox=[500, 500, 10, 10], area=100),  # outside
    dict(BOX, bbox=[3, 3, 0, 5], area=0),  # empty
    dict(BOX, bbox=[2, 2, 5, 5], area=0, segmentation=[[2, 2, 2, 2, 2, 2]]),  # without area
]


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """One image of each kind, with one object where nothing else is said."""
    root = tmp_path_factory.mktemp('images')
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    written = {
        'good.jpg': noise,
        'pixel.png': noise[:1, :1],
        'gray.png': noise[..., 0],
        'rgba.png': np.dstack([noise, noise[..., :1]]),
        'deep.png': noise.astype(np.uint16) * 16,
    }
    for name, pixels in written.items():
        assert cv2.imwrite(str(root / name), pixels)
    whole = (root / 'good.jpg').read_bytes()
    (root / 'cut.jpg').write_bytes(whole[: len(whole) // 2])
    (root / 'more.jpg').write_bytes(whole + b'more')
    (root / 'empty.jpg').write_bytes(b'')
    (root / 'text.jpg').write_bytes(b'no image')
    names = [*written, 'cut.jpg', 'more.jpg', 'empty.jpg', 'text.jpg', 'missing.jpg']
    annotations = []
    for i, name in enumerate(names):
        box = [0, 0, 1, 1] if name == 'pixel.png' else [5, 5, 20, 20]
        mask = [[5, 5, 25, 5, 25, 25, 5, 25]]
        annotations.append(
            dict(BOX, bbox=box, area=box[2] * box[3], segmentation=mask, image_id=i)
        )
    for odd in ODD:
        annotations.append(dict(dict(segmentation=[[1, 1, 9, 1, 9, 9]]), **odd, image_id=0))
    coco = dict(
        images=[dict(id=i, file_name=name, height=40, width=60) for i, name in enumerate(names)],
        annotations=[dict(entry, id=i) for i, entry in enumerate(annotations)],
        categories=[dict(id=1, name='thing')],
    )
    (root / 'coco.json').write_text(json.dumps(coco))
    return root


def dataset(root):
    from mmdet.datasets import CocoDataset

    init_default_scope('mmdet')
    return CocoDataset(
        ann_file=str(root / 'coco.json'),
        data_prefix=dict(img=str(root)),
        metainfo=dict(classes=('thing',)),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='Resize', scale=(64, 64), keep_ratio=True),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackDetInputs'),
        ],
    )


def readable(path):
    try:
        return mmcv.imfrombytes(path.read_bytes()) is not None
    except (OSError, cv2.error):
        return False


class Loop:
    def __init__(self, dataset):
        self.dataloader = DataLoader(dataset, collate_fn=list)


def guarded(root, skip=False, work_dir='.'):
    hook, data = BadDataHook(skip=skip), dataset(root)
    runner = type('Runner', (), dict(work_dir=str(work_dir), val_loop=None))()
    runner.train_loop = Loop(data)
    hook.before_train(runner)
    return (
        hook,
        data,
        [os.path.basename(data.get_data_info(i)['img_path']) for i in range(len(data))],
    )


def test_what_cannot_be_read_is_named(images, capfd):
    _, data, names = guarded(images)
    for i, name in enumerate(names):
        if not readable(images / name):
            with pytest.raises(DataError, match=str(images / name)):
                data[i]
        else:
            sample = data[i]
            assert sample['inputs'].shape[0] == 3 and len(sample['data_samples'].gt_instances) == 1
    said = capfd.readouterr().err
    assert f'{images}/deep.png has 16 bits a value, of which OpenCV keeps the upper 8' in said
    assert 'more.jpg' not in said and 'good.jpg' not in said


def test_what_cannot_be_read_is_left_out_and_counted(images, tmp_path):
    hook, data, names = guarded(images, skip=True, work_dir=tmp_path)
    for i in range(len(names)):
        assert data[i]['inputs'].shape[0] == 3
    listed = (tmp_path / 'skipped_images.txt').read_text()
    for name in ('empty.jpg', 'text.jpg', 'missing.jpg', 'cut.jpg'):
        assert f'{images}/{name}' in listed
    assert 'good.jpg' not in listed
    assert hook.count.value == len(listed.splitlines())


def test_workers_count_together(images, tmp_path):
    hook, data, _ = guarded(images, skip=True, work_dir=tmp_path)
    assert len(list(DataLoader(data, num_workers=2, collate_fn=list))) == len(data)
    assert hook.count.value == len((tmp_path / 'skipped_images.txt').read_text().splitlines()) > 3


def test_a_worker_names_the_file_too(images):
    _, data, _ = guarded(images)
    with pytest.raises(DataError, match='Original Traceback') as error:
        list(DataLoader(data, num_workers=1, collate_fn=list))
    reason = str(error.value).rpartition('DataError: ')[2].strip()
    assert reason.startswith(f'{images}/') and '\n' not in reason


def test_label_maps_that_are_wrong(tmp_path):
    from mmseg.datasets import BaseSegDataset

    init_default_scope('mmseg')
    for folder in ('images', 'maps'):
        (tmp_path / folder).mkdir()
    for i, label in enumerate((1, 7, 255)):
        cv2.imwrite(str(tmp_path / f'images/{i}.jpg'), np.zeros((8, 8, 3), np.uint8))
        labels = np.zeros((8, 8), np.uint8)
        labels[0] = label
        cv2.imwrite(str(tmp_path / f'maps/{i}.png'), labels)
    for i in (3, 4):
        cv2.imwrite(str(tmp_path / f'images/{i}.jpg'), np.zeros((8, 8, 3), np.uint8))
    cv2.imwrite(str(tmp_path / 'maps/3.png'), np.zeros((6, 8), np.uint8))
    (tmp_path / 'maps/4.png').write_text('no image')
    data = BaseSegDataset(
        data_prefix=dict(img_path=str(tmp_path / 'images'), seg_map_path=str(tmp_path / 'maps')),
        metainfo=dict(classes=('a', 'b'), palette=[[0, 0, 0], [9, 9, 9]]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
    )
    runner = type('Runner', (), dict(work_dir=str(tmp_path), val_loop=None))()
    runner.train_loop = Loop(data)
    BadDataHook().before_train(runner)
    assert data[0]['data_samples'].gt_sem_seg.data.max() == 1
    assert data[2]['data_samples'].gt_sem_seg.data.max() == 255
    wrong = {
        1: 'images/1.jpg: its label map .*maps/1.png has the labels 7',
        3: 'images/3.jpg: its label map .*maps/3.png has another size: .* 8 x 6 .* 8 x 8',
        4: 'maps/4.png cannot be read',
    }
    for i, message in wrong.items():
        with pytest.raises(DataError, match=message):
            data[i]


def test_in_an_evaluation_a_label_map_has_the_size_of_its_image_before_the_pipeline():
    from mmseg.structures import SegDataSample

    data = type('Data', (), dict(metainfo={}))()
    sample = dict(inputs=torch.zeros(3, 4, 3), data_samples=SegDataSample())
    sample['data_samples'].gt_sem_seg = PixelData(data=torch.zeros(1, 8, 6))
    assert 'another size' in wrong_annotations(sample, data)
    sample['data_samples'].set_metainfo(dict(ori_shape=(8, 6)))
    assert wrong_annotations(sample, data) is None


def test_objects_with_wrong_labels_or_boxes(images):
    data = dataset(images)
    sample = data[0]
    objects = sample['data_samples'].gt_instances
    assert wrong_annotations(sample, data) is None
    objects.labels[0] = 3
    assert wrong_annotations(sample, data) == 'an object has the label 3; there are 1 classes'
    objects.labels[0] = 0
    objects.bboxes.tensor[0, 0] = float('nan')
    assert wrong_annotations(sample, data) == 'a box is not finite'
    assert wrong_annotations(dict(inputs=1), data) is None


def test_data_sets_within_others_are_found(images):
    one, two = dataset(images), dataset(images)
    assert list(base_datasets(ConcatDataset([one, two]))) == [one, two]
    assert list(base_datasets(RepeatDataset(one, 2))) == [one]
    nested = type('Wrapper', (), dict(dataset=ConcatDataset([one, two])))()
    assert list(base_datasets(nested)) == [one, two] and list(base_datasets(None)) == []


@pytest.mark.parametrize('warned', [True, False])
def test_a_jpeg_that_was_cut_off(images, capfd, monkeypatch, warned):
    """Some versions of OpenCV read what is there; a warning says so."""
    if warned:
        monkeypatch.setattr(
            mmcv, 'imfrombytes', lambda *args, **kw: np.zeros((40, 60, 3), 'uint8')
        )
    _, data, names = guarded(images)
    index = names.index('cut.jpg')
    if warned:
        assert data[index]['inputs'].shape[0] == 3
        assert f'{images}/cut.jpg cannot be read: image file is trunc' in capfd.readouterr().err
    else:
        with pytest.raises(DataError, match='cut.jpg cannot be read: image file is truncated'):
            data[index]


def train_with_a_deadly_image(work_dir):
    cfg = toy.config(work_dir, workers=1, **{'train_dataloader.dataset.deadly': 5})
    try:
        Runner.from_cfg(cfg).train()
    except (RuntimeError, OSError, EOFError) as error:
        (work_dir / 'reason').write_text(explain_worker(error))
        os._exit(3)


def test_why_a_worker_died(tmp_path):
    assert toy.in_child(train_with_a_deadly_image, tmp_path) == 3
    reason = (tmp_path / 'reason').read_text()
    assert reason.startswith('a worker that loads images ended ')
    assert 'the system kills what takes too much memory' in reason
    assert 'lower num_workers' in reason
    bus = RuntimeError('DataLoader worker (pid 7) is killed by signal: Bus error. It is possible')
    assert '/dev/shm' in explain_worker(bus)
    lost = RuntimeError('DataLoader worker (pid(s) 7) exited unexpectedly')
    assert 'ended unexpectedly' in explain_worker(lost)
    assert explain_worker(RuntimeError('shapes do not fit')) is None


def test_the_rest_of_the_training_is_as_without_the_hook(tmp_path):
    hooks = [dict(type='EMAHook', momentum=0.1)]
    expected = toy.train(tmp_path / 'without', custom_hooks=hooks)
    hooks = [*hooks, dict(type='mlp_backbones.BadDataHook')]
    assert toy.equal(toy.train(tmp_path / 'with', custom_hooks=hooks), expected)
