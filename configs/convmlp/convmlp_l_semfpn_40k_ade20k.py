# ConvMLP-L, Semantic FPN, 40k iterations, on ADE20K, as published: 40.0 mIoU.
# Its checkpoint:
# https://shi-labs.com/projects/convmlp/checkpoints/segmentation/sem_fpn_convmlp_l_ade20k.pth
_base_ = '../_base_/published/semfpn_40k_ade20k.py'

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
