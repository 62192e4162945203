# Mask R-CNN for images of 128 x 128 on a CPU. A family adds its backbone.
_base_ = ['../../_base_/models/light_mask_rcnn.py', './demo_runtime.py']

default_scope = 'mmdet'
visualizer = dict(
    type='DetLocalVisualizer',
    vis_backends=_base_.vis_backends,
    name='visualizer',
    line_width=2,
    alpha=0.6,
)
default_hooks = dict(visualization=dict(type='DetVisualizationHook'))

classes = ('circle', 'square', 'triangle')
palette = [(230, 80, 70), (70, 150, 240), (110, 200, 80)]
model = dict(
    backbone=dict(pretrain_img_size=128),
    neck=dict(num_outs=4),
    # Anchors of 16, 32, 64 and 128 pixels.
    rpn_head=dict(anchor_generator=dict(strides=[4, 8, 16, 32])),
    roi_head=dict(
        bbox_head=dict(num_classes=len(classes)), mask_head=dict(num_classes=len(classes))
    ),
)

data_root = 'data/demo/'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    # Changes no size, but mmdet asks for the factor that it records.
    dict(type='Resize', scale_factor=1.0),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
metainfo = dict(classes=classes, palette=palette)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,  # 2 ms an image: a worker would only take a core from the training
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='images/training/'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='images/validation/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(
    type='CocoMetric',
    ann_file=data_root + 'annotations/instances_val.json',
    metric=['bbox', 'segm'],
)
test_evaluator = val_evaluator

# The first layer after the RoIs has 3136 inputs: at the full rate one step of Adam would move its
# outputs by more than their size.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'shared_fcs': dict(lr_mult=0.1)}))
