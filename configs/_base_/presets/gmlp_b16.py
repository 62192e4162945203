# What configs/plain/gmlp_b16_*.py share: the model's part, and the rate of an earlier layer.
preset = dict(
    # The statistics that the published weights were trained with.
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(
        type='mlp_backbones.PlainGMLP',
        arch='b16',
        # The weights as they are, on windows and on grids that span the map, in turn.
        resolution='window+grid',
        drop_path_rate=0.1,
        # No weights of gMLP-B/16 are published: init_cfg is for your own.
    ),
    neck=dict(in_channels=512),
)
layer_decay_rate = 0.9
