_base_ = './_base_/maskrcnn_overnight.py'

model = dict(backbone=dict(type='mlp_backbones.ShiftGMLP'))
