_base_ = './_base_/upernet_ade20k.py'

model = dict(
    backbone=dict(
        type='mlp_backbones.ConvMLP',
        arch='m',
        drop_path_rate=0.2,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://shi-labs.com/projects/convmlp/checkpoints/convmlp_m_imagenet.pth',
        ),
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
