_base_ = './_base_/maskrcnn.py'

arch = dict(embed_dims=128, num_layers=6, patch_size=8, num_heads=4, pos_embed=True)
model = dict(
    backbone=dict(
        _delete_=True,
        type='mlp_backbones.PlainViT',
        arch=arch,
        pretrain_img_size=128,
        drop_path_rate=0.0,
    ),
    neck=dict(
        _delete_=True,
        type='mlp_backbones.SimpleFeaturePyramid',
        in_channels=128,
        out_channels=64,
        in_stride=8,
        norm_cfg=_base_.norm_cfg,
    ),
)
