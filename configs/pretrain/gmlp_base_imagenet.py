_base_ = './_base_/imagenet.py'

model = dict(
    backbone=dict(type='mlp_backbones.GMLP', arch='base', drop_path_rate=0.5),
    head=dict(in_channels=1024),
)
