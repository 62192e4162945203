# Mask R-CNN for images of 128 x 128 on a CPU. A family adds its backbone, with maps of strides
# 4, 8, 16, 32 and 32, 64, 128, 256 channels.
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', './demo_runtime.py']

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
# From scratch, group norm in the pyramid and the heads makes the masks learn in minutes.
norm_cfg = dict(type='GN', num_groups=8, requires_grad=True)

model = dict(
    data_preprocessor=dict(type='mlp_backbones.DetDataPreprocessor'),
    backbone=dict(_delete_=True, arch='nano', pretrain_img_size=128, drop_path_rate=0.0),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64, num_outs=4, norm_cfg=norm_cfg),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        # Anchors of 16, 32, 64 and 128 pixels.
        anchor_generator=dict(scales=[4], strides=[4, 8, 16, 32]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=2), out_channels=64, finest_scale=32
        ),
        bbox_head=dict(
            _delete_=True,
            type='ConvFCBBoxHead',
            num_shared_convs=2,
            num_shared_fcs=1,
            in_channels=64,
            conv_out_channels=64,
            fc_out_channels=256,
            roi_feat_size=7,
            num_classes=len(classes),
            norm_cfg=norm_cfg,
            reg_class_agnostic=True,
            bbox_coder=dict(
                type='DeltaXYWHBBoxCoder',
                target_means=[0.0, 0.0, 0.0, 0.0],
                target_stds=[0.1, 0.1, 0.2, 0.2],
            ),
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type='L1Loss', loss_weight=1.0),
        ),
        mask_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=1), out_channels=64, finest_scale=32
        ),
        mask_head=dict(
            num_convs=2,
            in_channels=64,
            conv_out_channels=64,
            num_classes=len(classes),
            norm_cfg=norm_cfg,
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=200, max_per_img=64),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=64), rcnn=dict(max_per_img=20)),
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
