# ConvMLP-M, RetinaNet 1x on COCO, as published: 39.4 box AP.
# Its checkpoint:
# https://shi-labs.com/projects/convmlp/checkpoints/detection/retinanet_convmlp_m_coco.pth
_base_ = '../_base_/published/retinanet_1x_coco.py'

model = dict(
    backbone=dict(
        type='mlp_backbones.ConvMLP',
        arch='m',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://shi-labs.com/projects/convmlp/checkpoints/convmlp_m_imagenet.pth',
        ),
    ),
    neck=dict(in_channels=[128, 256, 512]),
)
