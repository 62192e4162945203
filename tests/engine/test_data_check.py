"""Data that is there, and data that is not."""

import json

import pytest
from coco_like import coco_like
from mmengine.config import Config

from mlp_backbones.engine.data_check import check_categories, check_data


def test_data_that_is_there_passes_and_each_missing_part_is_named(tmp_path):
    root = f'{tmp_path}/coco/'
    cfg = coco_like(root)
    with pytest.raises(FileNotFoundError) as error:
        check_data(cfg, ['val', 'test'])
    assert f'{root} does not exist (val_dataloader.dataset.data_root)' in str(error.value)
    assert f'{root}val.json does not exist (test_evaluator.0.ann_file)' in str(error.value)
    assert 'docs/training.md#data' in str(error.value)

    (tmp_path / 'coco/val').mkdir(parents=True)
    with pytest.raises(FileNotFoundError) as error:
        check_data(cfg, ['val'])
    assert 'val.json does not exist (val_dataloader.dataset.ann_file)' in str(error.value)
    assert 'val/ is empty (val_dataloader.dataset.data_prefix.img)' in str(error.value)
    assert '(test_' not in str(error.value)  # that loop does not run

    (tmp_path / 'coco/val.json').write_text('{}')
    (tmp_path / 'coco/val/1.jpg').write_text('')
    check_data(cfg, ['train', 'val', 'test'])  # no train loop is configured


def test_data_is_looked_for_inside_dataset_wrappers_and_not_in_other_storage():
    missing = dict(data_root='/nowhere', ann_file='a.json')
    dataset = dict(
        type='RepeatDataset',
        dataset=dict(
            type='ConcatDataset',
            datasets=[
                dict(data_root='s3://bucket', ann_file='a.json', data_prefix=dict(img='a')),
                dict(missing, backend_args=dict(backend='petrel')),
                missing,
            ],
        ),
    )
    cfg = Config(dict(train_dataloader=dict(dataset=dataset), train_cfg=dict()))
    with pytest.raises(FileNotFoundError) as error:
        check_data(cfg, ['train'])
    lines = [line for line in str(error.value).splitlines() if 'does not exist' in line]
    assert lines == [
        '  /nowhere does not exist (train_dataloader.dataset.dataset.datasets.2.data_root)'
    ]


def with_categories(folder, *names, text=None, classes=None):
    """A config whose validation file has these categories."""
    cfg = coco_like(f'{folder}/')
    cfg.default_scope = 'mmdet'
    content = dict(images=[], categories=[dict(id=i, name=n) for i, n in enumerate(names)])
    (folder / 'val.json').write_text(json.dumps(content) if text is None else text)
    for loop in ('val', 'test'):
        cfg[f'{loop}_dataloader'].dataset.type = 'CocoDataset'
        if classes:
            cfg[f'{loop}_dataloader'].dataset.metainfo = dict(classes=classes)
    return cfg


@pytest.mark.parametrize(
    'names, classes', [('ab', 'ab'), ('abc', 'ac'), (('a [x]', 'b"c"', 'd'), ('a [x]', 'd'))]
)
def test_classes_in_the_order_of_the_file_pass(names, classes, tmp_path):
    check_categories(with_categories(tmp_path, *names, classes=tuple(classes)), ['val', 'test'])


@pytest.mark.parametrize(
    'names, classes, message',
    [
        ('ab', 'ba', 'given in its metainfo, and .*val.json has them in another order: a, b'),
        ('ab', 'aB', 'val.json has them without B: a, b'),
        ('ab', None, "COCO's, as it has no metainfo, and .* without person, bicycle, car, ..."),
        ('', 'ab', 'without a, b'),
    ],
)
def test_other_classes_than_those_of_the_file_are_named(names, classes, message, tmp_path):
    cfg = with_categories(tmp_path, *names, classes=classes and tuple(classes))
    with pytest.raises(ValueError, match=f'^val_dataloader.dataset: its classes are .*{message}'):
        check_categories(cfg, ['val'])


@pytest.mark.parametrize(
    'text, message',
    [
        ('', 'is empty'),
        ('{"images": [', 'was cut off'),
        ('{"images": []}', 'has no categories'),
        ('{"categories": 3}', 'has no categories'),
    ],
)
def test_files_without_categories_are_named(text, message, tmp_path):
    with pytest.raises(ValueError, match=f'val.json .*{message}'):
        check_categories(with_categories(tmp_path, text=text), ['val'])


def test_categories_of_something_else_are_not_taken_for_them(tmp_path):
    text = (
        '{"images": [{"categories": [1, 2]}], "categories": [{"name": "\u00e9"}, {"name": "b"}]}'
    )
    check_categories(with_categories(tmp_path, text=text, classes=('\u00e9', 'b')), ['val'])


def test_an_evaluator_of_other_data_is_named(tmp_path):
    cfg = with_categories(tmp_path, 'a', 'b', classes=('a', 'b'))
    (tmp_path / 'other.json').write_text('{}')
    cfg.test_evaluator[0].ann_file = f'{tmp_path}/other.json'
    check_categories(cfg, ['val'])
    with pytest.raises(ValueError, match='test_evaluator.ann_file=.*other.json, but test_data'):
        check_categories(cfg, ['test'])
