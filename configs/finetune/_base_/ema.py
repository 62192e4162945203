# For custom_hooks of the overnight recipes: an average of the weights, as by train.py --ema.
ema_hooks = [
    dict(type='mlp_backbones.ValLossHook'),
    dict(
        type='EMAHook',
        ema_type='MomentumAnnealingEMA',
        momentum=0.0002,
        update_buffers=True,
        priority=49,
    ),
]
