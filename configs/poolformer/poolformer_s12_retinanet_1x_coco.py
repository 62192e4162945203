# PoolFormer-S12, RetinaNet 1x on COCO, as published: 36.2 box AP.
# Its checkpoint, to be downloaded by hand:
# https://drive.google.com/file/d/1GKx4jbxdO4ClagPXXt7CoomrV4pOpqul/view
_base_ = '../_base_/published/retinanet_1x_coco.py'

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
    neck=dict(in_channels=[128, 320, 512]),
)
