_base_ = './_base_/tiny_imagenet.py'

model = dict(backbone=dict(type='mlp_backbones.S2MLP'))
