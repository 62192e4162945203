_base_ = '../_base_/plain_upernet_ade20k.py'

model = dict(
    backbone=dict(type='mlp_backbones.PlainS2MLP', arch='deep', drop_path_rate=0.1),
)
