"""Configs of mmdet and mmseg that fit, and ones that do not; tests/test_tools.py has more."""

import pytest
from mmengine.config import Config

from mlp_backbones.engine.config_check import check_config, check_save_best

CLASSES = dict(metainfo=dict(classes=('cell', 'platelet')))


def detector(dataset, num_classes=2, **model):
    heads = dict(bbox_head=[dict(type='Shared2FCBBoxHead', num_classes=num_classes)])
    return Config(
        dict(
            default_scope='mmdet',
            model=dict(roi_head=heads, rpn_head=dict(num_classes=1), **model),
            train_dataloader=dict(dataset=dataset),
        )
    )


@pytest.mark.parametrize(
    'dataset, count',
    [
        (dict(type='CocoDataset', **CLASSES), 2),
        (dict(type='CocoDataset'), 80),
        (dict(type='CocoPanopticDataset'), 80),  # things
        (dict(type='RepeatDataset', dataset=dict(type='VOCDataset')), 20),
        (dict(type='ConcatDataset', datasets=[dict(type='CocoDataset', **CLASSES)] * 2), 2),
    ],
)
def test_the_heads_predict_the_classes_of_the_data(dataset, count):
    check_config(detector(dataset, count))
    setting = r'model\.roi_head\.bbox_head\.0\.num_classes=7, but train_dataloader'
    with pytest.raises(ValueError, match=f'{setting}.* has {count} classes'):
        check_config(detector(dataset, 7))
    check_config(detector(dataset, 7, language_model=dict(type='BertModel')))


def test_a_config_without_a_model_is_named():
    with pytest.raises(ValueError, match='has no model'):
        check_config(Config(dict(default_scope='mmdet', model=None)))


def test_a_misspelt_type_anywhere_is_named():
    cfg = detector(dict(type='RepeatDataset', dataset=dict(type='CocoDatset')))
    with pytest.raises(ValueError, match='dataset.dataset.type=.*; did you mean CocoDataset'):
        check_config(cfg)


def test_what_resembles_nothing_or_is_of_other_packages_is_left_to_them():
    nms = dict(type='nms', iou_threshold=0.5)
    dataset = dict(type='CocoDataset', **CLASSES)
    check_config(detector(dataset, test_cfg=dict(nms=nms), neck=dict(type='MyOwnThing')))
    check_config(detector(dataset, neck=dict(type='mmpretrain.FPNN')))
    check_config(Config(dict(model=dict(type='X'), train_dataloader=dict(dataset=dataset))))


def test_the_first_of_several_necks_takes_the_maps():
    backbone = dict(type='mlp_backbones.GMLP', arch='nano')
    necks = [dict(type='FPN', in_channels=[32, 64, 128, 255]), dict(type='BFP', in_channels=64)]
    dataset = dict(type='CocoDataset', **CLASSES)
    with pytest.raises(ValueError, match='model.neck.in_channels=.*255.* does not fit'):
        check_config(detector(dataset, backbone=backbone, neck=necks))
    necks[0]['in_channels'][-1] = 256
    check_config(detector(dataset, backbone=backbone, neck=necks))


@pytest.mark.parametrize(
    'evaluator, best, measured',
    [
        (dict(type='CocoMetric', metric=['bbox', 'segm']), 'coco/segm_mAP_50', None),
        (dict(type='CocoMetric'), 'coco/segm_mAP', 'bbox'),
        (dict(type='CocoMetric', metric='segm'), 'coco/bbox_mAP', 'segm'),
        (dict(type='CocoMetric', metric='segm'), 'auto', None),
        (dict(type='IoUMetric', iou_metrics=['mDice']), 'mIoU', 'mDice'),
        (dict(type='mmseg.IoUMetric'), 'mIoU', None),
        (dict(type='IoUMetric'), 'val_loss', None),
    ],
)
def test_the_best_checkpoint_is_kept_by_something_that_is_measured(evaluator, best, measured):
    hooks = dict(checkpoint=dict(save_best=best))
    cfg = Config(dict(default_hooks=hooks, val_evaluator=evaluator))
    if measured is None:
        check_save_best(cfg)
    else:
        with pytest.raises(ValueError, match=f'{best}.* is not measured: .* has {measured}'):
            check_save_best(cfg)
