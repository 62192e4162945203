_base_ = './_base_/upernet_ade20k.py'

model = dict(
    backbone=dict(
        type='mlp_backbones.ShiftGMLP',
        arch='tiny',
        drop_path_rate=0.3,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
    )
)
