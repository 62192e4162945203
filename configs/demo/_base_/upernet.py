# UperNet for images of 128 x 128 on a CPU. A family adds its backbone.
_base_ = ['../../_base_/models/light_upernet.py', './demo_runtime.py']

default_scope = 'mmseg'
visualizer = dict(
    type='SegLocalVisualizer', vis_backends=_base_.vis_backends, name='visualizer', alpha=0.6
)
default_hooks = dict(visualization=dict(type='SegVisualizationHook'))

# The background is a class like the others: were it ignored, painting shapes over it would cost
# nothing. For a map in ADE's layout without it, set reduce_zero_label=True in the data sets.
classes = ('background', 'circle', 'square', 'triangle')
palette = [[40, 40, 40], [230, 80, 70], [70, 150, 240], [110, 200, 80]]

model = dict(
    backbone=dict(pretrain_img_size=128),
    decode_head=dict(
        pool_scales=(1, 2),  # the last map has 4 x 4 tokens
        num_classes=len(classes),
    ),
)

data_root = 'data/demo'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
dataset_type = 'BaseSegDataset'
metainfo = dict(classes=classes, palette=palette)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,  # an image takes 2 ms: a worker would only take a core from the training
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
