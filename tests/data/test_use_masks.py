"""A folder with label maps as the data of a config: layouts, labels, configs, refusals."""

import numpy as np
import pytest
import torch
from folders import CLASSES, put_maps
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from one_command import train_twice
from PIL import Image

from mlp_backbones.data import use_data
from mlp_backbones.data.masks import find_masks
from mlp_backbones.engine.config_check import check_config
from mlp_backbones.engine.data_check import check_data

LAYOUTS = {
    'ADE': (
        'images/training',
        'annotations/training',
        'images/validation',
        'annotations/validation',
    ),
    'mmseg': ('img_dir/train', 'ann_dir/train', 'img_dir/val', 'ann_dir/val'),
    'by part': ('train/images', 'train/masks', 'valid/images', 'valid/masks'),
    'flat': ('images', 'labels'),
    'training alone': ('images/train', 'masks/train'),
}


@pytest.mark.parametrize('ending', ['.png', '_mask.png'])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_the_usual_layouts_are_found(layout, ending, tmp_path):
    dirs = [tmp_path / 'train data' / name for name in LAYOUTS[layout]]
    put_maps(*dirs[:2], 'abcdefgh', ending)
    if dirs[2:]:
        put_maps(*dirs[2:], 'xyz', ending)
    (tmp_path / 'train data/classes.txt').write_text(CLASSES)
    found = find_masks(tmp_path / 'train data', tmp_path / 'out', 0.25, 0)
    assert found.classes == ('sky', 'road', 'car') and found.labels == [0, 1, 2]
    assert (found.img_suffix, found.seg_map_suffix) == ('.jpg', ending)
    names = {split: ''.join(sorted(part.names)) for split, part in found.parts.items()}
    if dirs[2:]:
        assert names == dict(train='abcdefgh', val='xyz')
        assert found.parts['val'].img_dir == dirs[2] and found.parts['val'].ann_dir == dirs[3]
    else:
        assert sorted(names['train'] + names['val']) == list('abcdefgh') and len(names['val']) == 2
        again = find_masks(tmp_path / 'train data', tmp_path / 'again', 0.25, 0)
        assert again.parts['val'].names == found.parts['val'].names
    assert 'road' in found.table() and found.pixels['train'].sum() == 48 * 64 * len(names['train'])


@pytest.mark.parametrize(
    'names, labels, classes, numbers',
    [
        ('sky\nroad\nignore', (0, 1, 2, 255), ('sky', 'road'), [0, 1, 255]),
        ('ignore\nsky\nroad\n\n', (0, 1, 2), ('sky', 'road'), [255, 0, 1]),
        ('sky\nignore\nroad', (0, 1, 2), ('sky', 'road'), [0, 255, 1]),
        ('sky\nroad\nnot seen', (0, 1, 255), ('sky', 'road', 'not seen'), [0, 1, 2]),
    ],
)
@pytest.mark.parametrize('base', ['mlp_backbones::gmlp', 'mmseg::fcn'])
def test_labels_get_the_numbers_of_their_classes(base, names, labels, classes, numbers, tmp_path):
    put_maps(tmp_path / 'images', tmp_path / 'annotations', 'abcd', labels=labels)
    (tmp_path / 'classes.txt').write_text(names)
    base = dict(
        gmlp='mlp_backbones::gmlp_upernet_ade20k.py',
        fcn='mmseg::fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512.py',
    )[base.split('::')[1]]
    (tmp_path / 'mine.py').write_text(f"_base_ = '{base}'")
    cfg = Config.fromfile(tmp_path / 'mine.py')
    (tmp_path / 'classes.txt').write_text('a\nignore\nb\n')  # of another time
    use_data(cfg, tmp_path, tmp_path)
    (tmp_path / 'classes.txt').write_text(names)
    found = use_data(cfg, tmp_path, tmp_path)
    assert found.classes == classes and found.labels == numbers
    init_default_scope('mmseg')
    want = np.resize([255 if x == 255 else numbers[x] for x in labels], 64)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    for loop in ('val', 'test'):
        dataset = DATASETS.build(cfg[f'{loop}_dataloader'].dataset)
        samples = dataset[0]['data_samples']
        for sample in samples if isinstance(samples, list) else [samples]:
            got = sample.gt_sem_seg.data[0].numpy()
            assert got.shape == (48, 64) and (got == want).all()


def test_a_palette_is_enough(tmp_path):
    colours = [10, 20, 30, 40, 50, 60, 70, 80, 90]
    put_maps(tmp_path / 'images', tmp_path / 'masks', 'abcd', palette=colours)
    found = find_masks(tmp_path, tmp_path / 'out', 0.5, 0)
    assert found.classes == ('class 0', 'class 1', 'class 2')
    assert found.palette == [[10, 20, 30], [40, 50, 60], [70, 80, 90]]


def damage(path, **kind):
    def edit(root):
        if 'size' in kind:
            Image.new('L', kind['size']).save(root / path)
        elif 'mode' in kind:
            Image.new(kind['mode'], (64, 48)).save(root / path)
        elif 'text' in kind:
            (root / path).write_text(kind['text'])
        else:
            (root / path).unlink()

    return edit


@pytest.mark.parametrize(
    'edit, message',
    [
        (damage('masks/b.png'), '1 images have no label map, such as .*masks/b.png'),
        (
            damage('masks/b.png', size=(48, 64)),
            'masks/b.png has 48 x 64 pixels, its image 64 x 48',
        ),
        (damage('masks/b.png', mode='RGB'), 'masks/b.png is a picture of 3 channels'),
        (damage('masks/b.png', text='x'), 'masks/b.png cannot be read'),
        (damage('images/b.jpg', text=''), 'images/b.jpg has no bytes'),
        (damage('images/e.bmp', text='x'), r'end in .jpg, .bmp; mmseg takes one kind'),
        (damage('classes.txt'), 'has no classes.txt: write .* the label maps have 0, 1, 2'),
        (damage('classes.txt', text='a\nb'), 'has label 2, which .*classes.txt does not name'),
        (damage('classes.txt', text='a\nb\nb'), r"names stand twice: \['b'\]"),
        (damage('classes.txt', text='a\n\nb'), 'a line is empty'),
        (damage('classes.txt', text='a\nignore\nignore'), '1 class is named in'),
    ],
)
def test_folders_that_are_wrong_are_refused(edit, message, tmp_path):
    put_maps(tmp_path / 'images', tmp_path / 'masks', 'abcd')
    (tmp_path / 'classes.txt').write_text(CLASSES)
    edit(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        find_masks(tmp_path, tmp_path / 'out', 0.5, 0)


def test_broken_training_images_and_label_maps_are_told_if_they_are_to_be_skipped(tmp_path):
    for part, names in (('train', 'abcd'), ('val', 'xy')):
        put_maps(tmp_path / f'images/{part}', tmp_path / f'masks/{part}', names)
    (tmp_path / 'classes.txt').write_text(CLASSES)
    damage('masks/train/a.png', text='x')(tmp_path)
    damage('masks/train/b.png', size=(48, 64))(tmp_path)
    damage('images/train/c.jpg', text='')(tmp_path)
    found = find_masks(tmp_path, tmp_path / 'out', 0.5, 0, skip_broken=True)
    kinds = ['unreadable label map', 'label map of another size', 'empty image file']
    assert [problem.kind for problem in found.warnings] == kinds
    damage('masks/val/x.png', text='x')(tmp_path)
    with pytest.raises(ValueError, match='val/x.png cannot be read'):
        find_masks(tmp_path, tmp_path / 'out', 0.5, 0, skip_broken=True)


def test_a_folder_without_what_is_needed_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='has no images and label maps: .* images or img'):
        find_masks(tmp_path, tmp_path, 0.5, 0)
    put_maps(tmp_path / 'images/train', tmp_path / 'masks/train', 'ab')
    put_maps(tmp_path / 'images/val', tmp_path / 'elsewhere', 'ab')
    with pytest.raises(FileNotFoundError, match='images/val has no folder of label maps'):
        find_masks(tmp_path, tmp_path, 0.5, 0)


BASES = [
    'upernet/upernet_r50_4xb4-160k_ade20k-512x512.py',
    'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
    'ocrnet/ocrnet_hr18_4xb2-40k_cityscapes-512x1024.py',
    'mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py',
    'fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py',
    'unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64.py',
]


@pytest.mark.parametrize('name', [*BASES, 'ours'])
def test_configs_take_the_folder(name, tmp_path):
    put_maps(tmp_path / 'images/train', tmp_path / 'annotations/train', 'abcd')
    put_maps(tmp_path / 'images/val', tmp_path / 'annotations/val', 'ab')
    (tmp_path / 'classes.txt').write_text(CLASSES)
    base = 'mlp_backbones::gmlp_upernet_ade20k.py' if name == 'ours' else f'mmseg::{name}'
    (tmp_path / 'mine.py').write_text(f"_base_ = '{base}'")
    cfg = Config.fromfile(tmp_path / 'mine.py')
    use_data(cfg, tmp_path, tmp_path)
    check_config(cfg)
    check_data(cfg, ['train', 'val', 'test'])
    # what a run leaves, but for its line breaks
    text = Config(cfg.to_dict(), format_python_code=False).pretty_text
    cfg = Config.fromstring(text, '.py')
    init_default_scope('mmseg')
    # SegFormer's backbone reads numbers from tensors
    with torch.device('cpu' if 'segformer' in name else 'meta'):
        model = MODELS.build(cfg.model)
    head = model.decode_head
    assert (head[-1] if hasattr(head, '__len__') else head).num_classes == 3
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert dataset.metainfo['classes'] == ('sky', 'road', 'car')
    assert {*dataset[0]['data_samples'].gt_sem_seg.data.unique().tolist()} <= {0, 1, 2, 255}
    evaluator = cfg.val_evaluator
    assert (evaluator[0] if isinstance(evaluator, list) else evaluator).type == 'IoUMetric'


def test_one_command_trains_and_what_it_leaves_is_a_config_and_a_checkpoint(tmp_path, monkeypatch):
    put_maps(tmp_path / 'images', tmp_path / 'masks', 'abcdef')
    (tmp_path / 'classes.txt').write_text('sky\nroad\nignore')
    printed, classes = train_twice(monkeypatch, 'demo/gmlp_upernet.py', tmp_path)
    assert '% of pixels    train      val' in printed and 'mIoU' in printed
    assert classes == ('sky', 'road')
