# ConvMLP-L, Mask R-CNN 1x on COCO, as published: 41.7 box AP and 38.2 mask AP.
# Its checkpoint:
# https://shi-labs.com/projects/convmlp/checkpoints/detection/maskrcnn_convmlp_l_coco.pth
_base_ = '../_base_/published/maskrcnn_1x_coco.py'

model = dict(
    backbone=dict(
        type='mlp_backbones.ConvMLP',
        arch='l',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://shi-labs.com/projects/convmlp/checkpoints/convmlp_l_imagenet.pth',
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
