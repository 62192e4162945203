# Mask R-CNN with an FPN on COCO as the published checkpoints of PoolFormer and ConvMLP were
# trained and tested: mmdet's 1x with AdamW. With mmdet's data preprocessor, not ours: in the
# published AP the padding is a part of each image. A child gives model.backbone,
# neck.in_channels and, where it differs, the rate.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    '../det_runtime.py',
]

model = dict(backbone=dict(_delete_=True))
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4),
)
