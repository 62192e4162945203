_base_ = './_base_/imagenet.py'

model = dict(
    backbone=dict(type='mlp_backbones.S2MLP', arch='base', drop_path_rate=0.5),
    head=dict(in_channels=1024),
)
