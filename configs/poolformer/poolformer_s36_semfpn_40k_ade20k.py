# PoolFormer-S36, Semantic FPN, 40k iterations, on ADE20K, as published: 42.0 mIoU.
# Its checkpoint, to be downloaded by hand:
# https://drive.google.com/file/d/1Rd6XxBXLEYWH-70IMvF6UiVymaWA3gik/view
# and mmseg's own, 41.81 mIoU:
# https://download.openmmlab.com/mmsegmentation/v0.5/poolformer/fpn_poolformer_s36_8x4_512x512_40k_ade20k/
# fpn_poolformer_s36_8x4_512x512_40k_ade20k_20220501_151122-b47e607d.pth
_base_ = '../_base_/published/semfpn_40k_ade20k_aligned.py'

model = dict(
    backbone=dict(
        type='mlp_backbones.PoolFormer',
        arch='s36',
        drop_path_rate=0.0,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/sail-sg/poolformer/releases/download/v1.0/poolformer_s36.pth.tar',
        ),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
