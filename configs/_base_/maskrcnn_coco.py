# Mask R-CNN with an FPN on COCO, the "1x" recipe that Swin, AS-MLP, CycleMLP
# and PoolFormer report: 12 epochs at 800 x 1333 on 8 GPUs x 2 images.
# A family's config adds model.backbone, with four maps of these channels.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    './det_runtime.py',
    './schedules/adamw_1x.py',
]

model = dict(
    # As mmdet's; each image's features depend neither on its batch-mates nor on its padding.
    data_preprocessor=dict(type='mlp_backbones.DetDataPreprocessor'),
    # Empties ResNet's settings, so that a child only states its own.
    backbone=dict(_delete_=True),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
