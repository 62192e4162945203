# The same recipe for a plain backbone: one map of stride 16, of which ViTDet's
# simple feature pyramid makes those of strides 4 to 64.
_base_ = './maskrcnn_coco.py'

model = dict(
    neck=dict(
        _delete_=True,
        type='mlp_backbones.SimpleFeaturePyramid',
        in_channels=384,
        out_channels=256,
        num_outs=5,
    )
)

optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={'pos_embed': dict(decay_mult=0.0), 'cls_token': dict(decay_mult=0.0)}
    )
)
