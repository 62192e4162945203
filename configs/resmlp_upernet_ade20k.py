_base_ = './_base_/upernet_ade20k.py'

model = dict(backbone=dict(type='mlp_backbones.ResMLP', arch='tiny', drop_path_rate=0.3))
