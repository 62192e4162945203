# What configs/plain/gmlp_s16_*.py share: the model's part, and the rate of an earlier layer.
preset = dict(
    # The statistics that the published weights were trained with.
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(
        type='mlp_backbones.PlainGMLP',
        arch='s16',
        # The weights as they are, on windows and on grids that span the map, in turn.
        resolution='window+grid',
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/gmlp_s16_224_raa-10536d42.pth',
        ),
    ),
    neck=dict(in_channels=256),
)
layer_decay_rate = 0.9
