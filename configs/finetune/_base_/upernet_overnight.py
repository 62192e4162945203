# The same for a night on a CPU, or less on a GPU: crops of larger images, of many scales,
# and an average of the weights.
_base_ = ['./upernet_5min.py', './ema.py']

crop_size = (384, 384)
model = dict(
    data_preprocessor=dict(size=crop_size, size_divisor=None), backbone=dict(drop_path_rate=0.1)
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    # After Resize: predictions are scored at the annotation's own size.
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

max_iters = 8000
train_cfg = dict(max_iters=max_iters, val_interval=800)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=200),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False, begin=200, end=max_iters),
]
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=800))
log_processor = dict(window_size=50)
custom_hooks = _base_.ema_hooks
