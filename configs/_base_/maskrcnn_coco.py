# Mask R-CNN with an FPN on COCO, the "1x" recipe that Swin, AS-MLP, CycleMLP
# and PoolFormer report: 12 epochs at 800 x 1333 on 8 GPUs x 2 images.
# A family's config adds model.backbone, with four maps of these channels.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]

model = dict(
    # As mmdet's; each image's features depend neither on its batch-mates nor on its padding.
    data_preprocessor=dict(type='mlp_backbones.DetDataPreprocessor'),
    # Empties ResNet's settings, so that a child only states its own.
    backbone=dict(_delete_=True),
    neck=dict(in_channels=[96, 192, 384, 768]),
)

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    # flat: gains that are neither norm nor bias (LayerScale, Affine).
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
)

# mmdet's 1x, but for a warm-up of 1000 iterations instead of 500.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
