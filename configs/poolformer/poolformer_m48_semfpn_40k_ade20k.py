# PoolFormer-M48, Semantic FPN, 40k iterations, on ADE20K, as published: 42.7 mIoU.
# Its checkpoint, to be downloaded by hand:
# https://drive.google.com/file/d/1KjeR_4Ue0QyslDimp3OYkRqeqNAwoAez/view
# and mmseg's own, 42.76 mIoU:
# https://download.openmmlab.com/mmsegmentation/v0.5/poolformer/fpn_poolformer_m48_8x4_512x512_40k_ade20k/
# fpn_poolformer_m48_8x4_512x512_40k_ade20k_20220504_003923-64168d3b.pth
_base_ = '../_base_/published/semfpn_40k_ade20k_aligned.py'

model = dict(
    backbone=dict(
        type='mlp_backbones.PoolFormer',
        arch='m48',
        drop_path_rate=0.0,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/sail-sg/poolformer/releases/download/v1.0/poolformer_m48.pth.tar',
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
