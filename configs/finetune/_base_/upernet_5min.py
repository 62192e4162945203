# UperNet from scratch on small data: tools/train.py CONFIG --data FOLDER. Without --data,
# on ADE20K.
_base_ = [
    '../../_base_/models/light_upernet.py',
    '../../_base_/datasets/ade20k.py',
    '../../_base_/seg_runtime.py',
    './schedule_5min.py',
]

# In a short run whole scenes teach more than crops of larger images.
model = dict(backbone=dict(pretrain_img_size=128))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(1024, 192), ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(256, 256)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(1024, 192), keep_ratio=True),
    # After Resize: predictions are scored at the annotation's own size.
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size=4, num_workers=2, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=2, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=200, max_keep_ckpts=2),
)
log_processor = dict(window_size=20)
