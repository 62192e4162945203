_base_ = './_base_/upernet_5min.py'

model = dict(backbone=dict(type='mlp_backbones.ShiftGMLP'))
