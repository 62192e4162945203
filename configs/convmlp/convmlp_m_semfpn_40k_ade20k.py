# ConvMLP-M, Semantic FPN, 40k iterations, on ADE20K, as published: 38.6 mIoU.
# Its checkpoint:
# https://shi-labs.com/projects/convmlp/checkpoints/segmentation/sem_fpn_convmlp_m_ade20k.pth
_base_ = '../_base_/published/semfpn_40k_ade20k.py'

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
