_base_ = './_base_/imagenet.py'

model = dict(
    backbone=dict(type='mlp_backbones.GMLP', arch='small', drop_path_rate=0.3),
)
