# What configs/plain/mlp_mixer_b16_*.py share: the model's part.
preset = dict(
    # The statistics that the published weights were trained with.
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(
        type='mlp_backbones.PlainMLPMixer',
        arch='b16',
        # The weights as they are, on windows and on grids that span the map, in turn.
        resolution='window+grid',
        drop_path_rate=0.1,
        # ImageNet-21k, then -1k; -21k alone: jx_mixer_b16_224_in21k-617b3de2.pth beside it.
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-vitjx/jx_mixer_b16_224-76587d61.pth',
        ),
    ),
    neck=dict(in_channels=768),
)
