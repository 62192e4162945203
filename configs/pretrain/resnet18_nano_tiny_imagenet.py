# The convolutional baseline: a ResNet-18 of 28, 56, 112 and 224 channels.
_base_ = './_base_/tiny_imagenet.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmdet.ResNet',
        depth=18,
        base_channels=28,
        stem_channels=28,
        norm_cfg=dict(type='BN'),
        out_indices=[3],
    ),
    head=dict(in_channels=224),
)
