_base_ = '../_base_/plain_pretrained_upernet_ade20k.py'

model = dict(
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

optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.8))
