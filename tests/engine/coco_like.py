"""A config with the settings of data that a COCO one has."""

import copy

from mmengine.config import Config


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
