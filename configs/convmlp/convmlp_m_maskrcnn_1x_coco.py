# ConvMLP-M, Mask R-CNN 1x on COCO, as published: 40.6 box AP and 37.2 mask AP.
# Its checkpoint:
# https://shi-labs.com/projects/convmlp/checkpoints/detection/maskrcnn_convmlp_m_coco.pth
_base_ = '../_base_/published/maskrcnn_1x_coco.py'

model = dict(
    backbone=dict(
        type='mlp_backbones.ConvMLP',
        arch='m',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://shi-labs.com/projects/convmlp/checkpoints/convmlp_m_imagenet.pth',
        ),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
