_base_ = '../_base_/plain_pretrained_upernet_ade20k.py'

model = dict(
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

optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.9))
