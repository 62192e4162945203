# The same recipe for a plain backbone: one map of stride 16, of which ViTDet's
# simple feature pyramid makes those of strides 4 to 32.
_base_ = './upernet_ade20k.py'

model = dict(
    neck=dict(type='mlp_backbones.SimpleFeaturePyramid', in_channels=384, out_channels=256),
    decode_head=dict(in_channels=[256, 256, 256, 256]),
    auxiliary_head=dict(in_channels=256),
)

optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={'pos_embed': dict(decay_mult=0.0), 'cls_token': dict(decay_mult=0.0)}
    )
)
