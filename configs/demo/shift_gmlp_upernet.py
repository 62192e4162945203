_base_ = './_base_/upernet.py'

model = dict(backbone=dict(type='mlp_backbones.ShiftGMLP'))
