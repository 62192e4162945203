# What configs/plain/s2mlp_deep_*.py share: the model's part, and the rate of an earlier layer.
preset = dict(
    backbone=dict(
        type='mlp_backbones.PlainS2MLP',
        arch='deep',
        drop_path_rate=0.1,
        # No weights of S2-MLP are published: init_cfg is for your own.
    ),
)
layer_decay_rate = 0.9
