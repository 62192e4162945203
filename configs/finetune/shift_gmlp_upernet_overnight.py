_base_ = './_base_/upernet_overnight.py'

model = dict(backbone=dict(type='mlp_backbones.ShiftGMLP'))
