# ConvMLP-L, RetinaNet 1x on COCO, as published: 40.2 box AP.
# Its checkpoint:
# https://shi-labs.com/projects/convmlp/checkpoints/detection/retinanet_convmlp_l_coco.pth
_base_ = '../_base_/published/retinanet_1x_coco.py'

model = dict(
    backbone=dict(
        type='mlp_backbones.ConvMLP',
        arch='l',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://shi-labs.com/projects/convmlp/checkpoints/convmlp_l_imagenet.pth',
        ),
    ),
    neck=dict(in_channels=[192, 384, 768]),
)
