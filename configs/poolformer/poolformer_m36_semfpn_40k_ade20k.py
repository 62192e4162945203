# PoolFormer-M36, Semantic FPN, 40k iterations, on ADE20K, as published: 42.4 mIoU.
# Its checkpoint, to be downloaded by hand:
# https://drive.google.com/file/d/1Xgk7FI3FpOW2__UQhnGf7UGUHA3UzTRq/view
# and mmseg's own, 42.35 mIoU:
# https://download.openmmlab.com/mmsegmentation/v0.5/poolformer/fpn_poolformer_m36_8x4_512x512_40k_ade20k/
# fpn_poolformer_m36_8x4_512x512_40k_ade20k_20220501_164230-3dc83921.pth
_base_ = '../_base_/published/semfpn_40k_ade20k_aligned.py'

model = dict(
    backbone=dict(
        type='mlp_backbones.PoolFormer',
        arch='m36',
        drop_path_rate=0.0,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/sail-sg/poolformer/releases/download/v1.0/poolformer_m36.pth.tar',
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
