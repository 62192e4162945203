# PoolFormer-S12, Semantic FPN, 40k iterations, on ADE20K, as published: 37.2 mIoU.
# Its checkpoint, to be downloaded by hand:
# https://drive.google.com/file/d/1BcqU1yU2IPkI7RtWEmIw-R8tqMGY_XBt/view
# and mmseg's own, 37.07 mIoU:
# https://download.openmmlab.com/mmsegmentation/v0.5/poolformer/fpn_poolformer_s12_8x4_512x512_40k_ade20k/
# fpn_poolformer_s12_8x4_512x512_40k_ade20k_20220501_115154-b5aa2f49.pth
_base_ = '../_base_/published/semfpn_40k_ade20k_aligned.py'

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
