_base_ = '../_base_/plain_pretrained_upernet_ade20k.py'

model = dict(
    backbone=dict(
        type='mlp_backbones.PlainS2MLP',
        arch='deep',
        drop_path_rate=0.1,
        # No weights of S2-MLP are published: init_cfg is for your own.
    ),
)

optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.9))
