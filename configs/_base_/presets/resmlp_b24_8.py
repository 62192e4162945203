# What configs/plain/resmlp_b24_8_*.py share: the model's part, and the rate of an earlier layer.
preset = dict(
    backbone=dict(
        type='mlp_backbones.PlainResMLP',
        arch='b24_8',
        # The weights as they are, on windows and on grids that span the map, in turn.
        resolution='window+grid',
        drop_path_rate=0.1,
        # ImageNet-22k, then -1k; -1k alone: resmlpB_24_dist.pth beside it.
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://dl.fbaipublicfiles.com/deit/resmlpB_24_22k.pth',
        ),
    ),
    neck=dict(in_channels=768, in_stride=8),
)
layer_decay_rate = 0.8
