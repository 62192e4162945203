# Mask R-CNN with heads of 64 channels, for small images or small data. A family adds its backbone,
# with maps of strides 4, 8, 16, 32 and 32, 64, 128, 256 channels.
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'

# From scratch, group norm in the pyramid and the heads makes the masks learn in minutes.
norm_cfg = dict(type='GN', num_groups=8, requires_grad=True)

model = dict(
    data_preprocessor=dict(type='mlp_backbones.DetDataPreprocessor'),
    backbone=dict(_delete_=True, arch='nano', drop_path_rate=0.0),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64, norm_cfg=norm_cfg),
    # Anchors of 16, 32, 64, 128 and 256 pixels.
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4])),
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
            num_classes=80,
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
        mask_head=dict(num_convs=2, in_channels=64, conv_out_channels=64, norm_cfg=norm_cfg),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=200, max_per_img=64),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=64), rcnn=dict(max_per_img=20)),
)
