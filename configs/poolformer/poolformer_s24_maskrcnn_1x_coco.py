# PoolFormer-S24, Mask R-CNN 1x on COCO, as published: 40.1 box AP and 37.0 mask AP.
# Its checkpoint, to be downloaded by hand:
# https://drive.google.com/file/d/10Br62EU-VErQq6rP67sf4qXJIBLOnmLT/view
_base_ = '../_base_/published/maskrcnn_1x_coco.py'

model = dict(
    backbone=dict(
        type='mlp_backbones.PoolFormer',
        arch='s24',
        drop_path_rate=0.0,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/sail-sg/poolformer/releases/download/v1.0/poolformer_s24.pth.tar',
        ),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
optim_wrapper = dict(optimizer=dict(lr=2e-4))
