"""Data that is there, and data that is not."""

import copy

import pytest
from mmengine.config import Config

from mlp_backbones.engine.data_check import check_data


def coco_like(root='data/coco/'):
    dataloader = dict(
        dataset=dict(data_root=root, ann_file='val.json', data_prefix=dict(img='val/'))
    )
    return Config(
        dict(
            data_root=root,
            val_dataloader=dataloader,
            val_evaluator=dict(type='CocoMetric', ann_file=root + 'val.json'),
            val_cfg=dict(),
            test_dataloader=copy.deepcopy(dataloader),
            test_evaluator=[dict(type='CocoMetric', ann_file=root + 'val.json')],
            test_cfg=dict(),
        )
    )


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
