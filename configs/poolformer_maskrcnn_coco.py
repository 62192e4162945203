_base_ = './_base_/maskrcnn_coco.py'

model = dict(
    backbone=dict(
        type='mlp_backbones.PoolFormer',
        arch='s24',
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/sail-sg/poolformer/releases/download/v1.0/poolformer_s24.pth.tar',
        ),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
