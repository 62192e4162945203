_base_ = './_base_/imagenet.py'

model = dict(
    backbone=dict(type='mlp_backbones.ShiftGMLP', arch='tiny', drop_path_rate=0.2),
)
