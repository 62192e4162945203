_base_ = './_base_/maskrcnn_5min.py'

model = dict(backbone=dict(type='mlp_backbones.ShiftGMLP'))
