# The same for a night on a CPU, or half an hour on a GPU: larger images of more scales, twenty
# times the iterations, and an average of the weights.
_base_ = ['./maskrcnn_5min.py', './ema.py']

# Anchors of 24, 48, 96, 192 and 384 pixels.
model = dict(rpn_head=dict(anchor_generator=dict(scales=[6])))

train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', scale=(480, 480), ratio_range=(0.6, 1.2), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=(480, 480), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

max_iters = 12000
train_cfg = dict(max_iters=max_iters, val_interval=1200)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=200),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False, begin=200, end=max_iters),
]
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=1200))
log_processor = dict(window_size=50)
custom_hooks = _base_.ema_hooks
