# ConvMLP-S, Mask R-CNN 1x on COCO, as published: 38.4 box AP and 35.7 mask AP.
# Its checkpoint:
# https://shi-labs.com/projects/convmlp/checkpoints/detection/maskrcnn_convmlp_s_coco.pth
_base_ = '../_base_/published/maskrcnn_1x_coco.py'

model = dict(
    backbone=dict(
        type='mlp_backbones.ConvMLP',
        arch='s',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://shi-labs.com/projects/convmlp/checkpoints/convmlp_s_imagenet.pth',
        ),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
