# What configs/plain/resmlp_s24_*.py share: the model's part, and the rate of an earlier layer.
preset = dict(
    backbone=dict(
        type='mlp_backbones.PlainResMLP',
        arch='s24',
        # The weights as they are, on windows and on grids that span the map, in turn.
        resolution='window+grid',
        drop_path_rate=0.1,
        # Distilled; without distillation: resmlp_24_no_dist.pth beside it.
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://dl.fbaipublicfiles.com/deit/resmlp_24_dist.pth',
        ),
    ),
)
layer_decay_rate = 0.8
