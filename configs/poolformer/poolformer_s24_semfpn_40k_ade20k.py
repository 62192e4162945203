# PoolFormer-S24, Semantic FPN, 40k iterations, on ADE20K, as published: 40.3 mIoU.
# Its checkpoint, to be downloaded by hand:
# https://drive.google.com/file/d/1DO329W8eDrfgycHi7YagFWz7IyAb07Wl/view
# and mmseg's own, 40.36 mIoU:
# https://download.openmmlab.com/mmsegmentation/v0.5/poolformer/fpn_poolformer_s24_8x4_512x512_40k_ade20k/
# fpn_poolformer_s24_8x4_512x512_40k_ade20k_20220503_222049-394a7cf7.pth
_base_ = '../_base_/published/semfpn_40k_ade20k_aligned.py'

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
