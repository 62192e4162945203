_base_ = './_base_/upernet_ade20k.py'

model = dict(
    backbone=dict(
        type='mlp_backbones.PoolFormer',
        arch='s24',
        drop_path_rate=0.2,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/sail-sg/poolformer/releases/download/v1.0/poolformer_s24.pth.tar',
        ),
    ),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
