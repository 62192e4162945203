"""A folder with COCO annotations as the data of a config: layouts, configs, refusals."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from folders import NAMES, content, put
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import Runner
from one_command import train_twice

from mlp_backbones import config_path
from mlp_backbones.data import use_data
from mlp_backbones.data.coco import find_coco
from mlp_backbones.engine.config_check import check_config
from mlp_backbones.engine.data_check import check_data

LAYOUTS = {
    'COCO': {
        'train': ('annotations/instances_train2017.json', 'train2017'),
        'val': ('annotations/instances_val2017.json', 'val2017'),
    },
    'Roboflow': {
        'train': ('train/_annotations.coco.json', 'train'),
        'val': ('valid/_annotations.coco.json', 'valid'),
        'test': ('test/_annotations.coco.json', 'test'),
    },
    'images/': {
        'train': ('annotations/train.json', 'images/train'),
        'val': ('annotations/validation.json', 'images/val'),
    },
    'one folder of images': {
        'train': ('train.json', 'JPEGImages'),
        'val': ('val.json', 'JPEGImages'),
    },
    'one file': {'train': ('annotations/instances_default.json', 'images')},
    'training alone': {'train': ('annotations/instances_train.json', 'training')},
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_the_usual_layouts_are_found(layout, tmp_path):
    folder = tmp_path / 'test data'  # whose name tells nothing
    for split, (ann_file, img_dir) in LAYOUTS[layout].items():
        put(folder, ann_file, img_dir, content(dict(train=8, val=4, test=2)[split]))
    (folder / 'annotations').mkdir(exist_ok=True)
    for other in ('captions_train2017.json', 'person_keypoints_val2017.json'):
        (folder / 'annotations' / other).write_text('{}')
    found = find_coco(folder, tmp_path / 'out', 0.25, 0)
    assert found.classes == NAMES and found.has_masks
    images = {split: len(part.content['images']) for split, part in found.parts.items()}
    if len(LAYOUTS[layout]) == 1:
        assert images == dict(train=6, val=2)
    else:
        assert images == {split: dict(train=8, val=4, test=2)[split] for split in LAYOUTS[layout]}
    for split, part in found.parts.items():
        assert json.loads(part.ann_file.read_text()) == part.content
        ann_file, img_dir = LAYOUTS[layout].get(split, LAYOUTS[layout]['train'])
        assert part.img_dir == folder / img_dir
    assert 'platelet' in found.table()


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.floats(0.01, 0.99), st.integers(0, 3))
def test_a_division_is_whole_and_the_same_each_time(count, fraction, seed):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        put(Path(folder), 'all.json', 'images', content(count))
        first, second = (
            find_coco(folder, Path(folder, out), fraction, seed).parts for out in ('a', 'b')
        )
    ids = {}
    for split in ('train', 'val'):
        assert first[split].content == second[split].content
        ids[split] = {x['id'] for x in first[split].content['images']}
        assert ids[split] == {x['image_id'] for x in first[split].content['annotations']}
    assert ids['train'] | ids['val'] == set(range(count)) and not ids['train'] & ids['val']
    assert abs(len(ids['val']) - fraction * count) <= 1


def test_a_category_for_the_project_is_no_class(tmp_path):
    data = content(first_id=1)
    data['categories'] = [dict(id=0, name='blood', supercategory='none')] + [
        dict(x, supercategory='blood') for x in data['categories']
    ]
    put(tmp_path, 'train/_annotations.coco.json', 'train', data)
    found = find_coco(tmp_path, tmp_path / 'out', 0.5, 0)
    assert found.classes == NAMES and found.cat_ids == (1, 2)


def test_what_pycocotools_needs_is_completed(tmp_path):
    data = content(masks=False)
    for x in data['annotations']:
        del x['area'], x['iscrowd']
    put(tmp_path, 'train.json', 'images', data)
    put(tmp_path, 'val.json', 'images', content(masks=False))
    found = find_coco(tmp_path, tmp_path / 'out', 0.5, 0)
    written = json.loads(found.parts['train'].ann_file.read_text())
    assert written == content(masks=False) and found.parts['train'].img_dir == tmp_path / 'images'
    assert json.loads((tmp_path / 'train.json').read_text()) == data
    assert found.parts['val'].ann_file == tmp_path / 'val.json'


def change(key, index, **values):
    return lambda data: data[key][index].update(values)


@pytest.mark.parametrize(
    'edit, message',
    [
        (lambda data: data['images'].clear(), 'annotation of id 1 has image_id 0, which is none'),
        (
            change('annotations', 3, category_id=9),
            'id 4 has category_id 9, which is none of its c',
        ),
        (change('annotations', 3, bbox=[1, 2]), 'id 4 has no bbox'),
        (change('annotations', 3, segmentation=[]), 'id 4 has no segmentation, but others have'),
        (change('annotations', 3, id=1), '2 of the annotations have the id 1'),
        (change('images', 1, id=0), '2 of the images have the id 0'),
        (change('images', 1, file_name=None), 'image of id 1 has no file_name'),
        (change('images', 1, width=0), 'image of id 1 has no width and height'),
        (
            change('images', 1, file_name='x.png'),
            '1 of 4 images are not in .*, such as x.png',
        ),
        (change('categories', 0, name='platelet'), '2 categories have the name platelet'),
        (change('categories', 0, name='Cell'), 'val.json has other categories than .*train.json'),
        (lambda data: data['categories'].reverse(), 'the same ones in another order'),
        (lambda data: data['annotations'].clear(), 'has no objects'),
        (lambda data: data.pop('images'), 'is not a COCO file: it has no list "images"'),
        (lambda data: data.update(annotations={}), '"annotations" is not a list of entries'),
    ],
)
def test_annotations_that_are_wrong_are_named(edit, message, tmp_path):
    put(tmp_path, 'val.json', 'images', content())
    data = content()
    edit(data)
    (tmp_path / 'train.json').write_text(json.dumps(data))
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        find_coco(tmp_path, tmp_path / 'out', 0.5, 0)
    assert str(tmp_path) in str(error.value)


def test_a_file_alone_that_is_wrong_is_named(tmp_path):
    put(tmp_path, 'all.json', 'images', dict(content(), categories=[]))
    with pytest.raises(ValueError, match='all.json: .* has category_id 1, which is none of its c'):
        find_coco(tmp_path, tmp_path / 'out', 0.5, 0)


def test_a_folder_without_what_is_needed_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='there is no folder'):
        find_coco(tmp_path / 'x', tmp_path, 0.5, 0)
    with pytest.raises(FileNotFoundError, match=r'a COCO file named annotations/\*train.* none'):
        find_coco(tmp_path, tmp_path, 0.5, 0)
    put(tmp_path, 'a.json', 'images', content())
    with pytest.raises(ValueError, match='val_fraction=1.5 must be above 0 and below 1'):
        find_coco(tmp_path, tmp_path / 'out', 1.5, 0)
    shutil.copy(tmp_path / 'a.json', tmp_path / 'b.json')
    with pytest.raises(ValueError, match='no annotations for training.* a.json, b.json'):
        find_coco(tmp_path, tmp_path / 'out', 0.5, 0)
    for name in ('train', 'my_training'):
        shutil.copy(tmp_path / 'a.json', tmp_path / f'{name}.json')
    with pytest.raises(ValueError, match='several annotation files for train: my_training.json'):
        find_coco(tmp_path, tmp_path / 'out', 0.5, 0)
    (tmp_path / 'my_training.json').unlink()
    (tmp_path / 'train.json').write_text('{"images": [')
    with pytest.raises(ValueError, match='train.json is not valid JSON'):
        find_coco(tmp_path, tmp_path / 'out', 0.5, 0)


BASES = [
    'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
    'retinanet/retinanet_r50_fpn_1x_coco.py',
    'yolox/yolox_s_8xb8-300e_coco.py',
    'dino/dino-4scale_r50_8xb2-12e_coco.py',
    'ssd/ssd300_coco.py',
    'pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py',
    'condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py',
]


@pytest.mark.parametrize('name', [*BASES, 'ours'])
@pytest.mark.parametrize('masks', [True, False])
def test_configs_take_the_folder(name, masks, tmp_path):
    put(tmp_path, 'train/a.json', 'train', content(masks=masks))
    put(tmp_path, 'valid/a.json', 'valid', content(masks=masks))
    base = 'mlp_backbones::gmlp_maskrcnn_coco.py' if name == 'ours' else f'mmdet::{name}'
    (tmp_path / 'mine.py').write_text(f"_base_ = '{base}'")
    cfg = Config.fromfile(tmp_path / 'mine.py')
    if 'condinst' in name and not masks:
        with pytest.raises(ValueError, match='predicts masks.* only boxes'):
            use_data(cfg, tmp_path, tmp_path)
        return
    use_data(cfg, tmp_path, tmp_path)
    check_config(cfg)
    check_data(cfg, ['train', 'val', 'test'])
    # what a run leaves, but for its line breaks
    text = Config(cfg.to_dict(), format_python_code=False).pretty_text
    cfg = Config.fromstring(text, '.py')
    assert '80' not in str([part for part in cfg.model.items() if 'head' in part[0]])
    init_default_scope('mmdet')
    cfg.model.backbone.init_cfg = None
    with torch.device('meta'):
        MODELS.build(cfg.model)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert dataset.metainfo['classes'] == NAMES
    sample = dataset[0]['data_samples'].gt_instances
    assert {*sample.labels.tolist()} <= {0, 1} and len(sample) > 0
    if 'masks' in sample and not masks:
        assert name == 'yolox'
    assert ('segm' in cfg.val_evaluator.metric) <= masks
    assert DATASETS.build(cfg.val_dataloader.dataset).metainfo['classes'] == NAMES


def test_no_batch_has_one_image(tmp_path):
    put(tmp_path, 'train/a.json', 'train', content(5))
    put(tmp_path, 'valid/a.json', 'valid', content(3))
    for name in ('gmlp_maskrcnn_coco.py', 'demo/gmlp_maskrcnn.py'):
        cfg = Config.fromfile(config_path(name))
        use_data(cfg, tmp_path, tmp_path)
        init_default_scope('mmdet')
        loader = Runner.build_dataloader(cfg.train_dataloader)
        count = cfg.train_dataloader.batch_size
        assert [len(batch['inputs']) for batch in loader] == [count] * (5 // count)


@pytest.mark.parametrize(
    'base, key',
    [
        ('mmdet::htc/htc_r50_fpn_1x_coco.py', 'semantic_head'),
        (
            'mmdet::glip/glip_atss_swin-t_a_fpn_dyhead_16xb2_ms-2x_funtune_coco.py',
            'language_model',
        ),
    ],
)
def test_configs_that_need_more_are_refused(base, key, tmp_path):
    put(tmp_path, 'train/a.json', 'train', content())
    (tmp_path / 'mine.py').write_text(f"_base_ = '{base}'")
    with pytest.raises(ValueError, match=f'needs more than boxes and masks.*{key}'):
        use_data(Config.fromfile(tmp_path / 'mine.py'), tmp_path, tmp_path)


def test_weights_of_the_classes_follow_their_number(tmp_path):
    put(tmp_path, 'train/a.json', 'train', content())
    head = dict(num_classes=80, loss_cls=dict(class_weight=[1.0] * 80 + [0.1]))
    cfg = Config(dict(default_scope='mmdet', model=dict(bbox_head=head)))
    use_data(cfg, tmp_path, tmp_path)
    assert cfg.model.bbox_head.loss_cls.class_weight == [1.0, 1.0, 0.1]
    cfg.model.bbox_head.loss_cls.class_weight = [1.0, 2.0]
    with pytest.raises(ValueError, match='class_weight is for 2 other classes'):
        use_data(cfg, tmp_path, tmp_path)


def test_one_command_trains_and_what_it_leaves_is_a_config_and_a_checkpoint(tmp_path, monkeypatch):
    put(tmp_path, 'cells.json', 'images', content(6, masks=False))
    printed, classes = train_twice(monkeypatch, 'demo/gmlp_maskrcnn.py', tmp_path)
    assert 'objects of    train      val' in printed and 'coco/bbox_mAP' in printed
    assert classes == NAMES
