# PoolFormer-S12, Mask R-CNN 1x on COCO, as published: 37.3 box AP and 34.6 mask AP.
# Its checkpoint, to be downloaded by hand:
# https://drive.google.com/file/d/1-GSkqaS3SovfCVDsH8CzS1DikPX3cFTY/view
_base_ = '../_base_/published/maskrcnn_1x_coco.py'

model = dict(
    backbone=dict(
        type='mlp_backbones.PoolFormer',
        arch='s12',
        drop_path_rate=0.0,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/sail-sg/poolformer/releases/download/v1.0/poolformer_s12.pth.tar',
        ),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
optim_wrapper = dict(optimizer=dict(lr=2e-4))
