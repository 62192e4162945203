_base_ = './_base_/maskrcnn.py'

model = dict(backbone=dict(type='mlp_backbones.ShiftGMLP'))
