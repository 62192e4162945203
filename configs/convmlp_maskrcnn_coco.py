_base_ = './_base_/maskrcnn_coco.py'

model = dict(
    backbone=dict(
        type='mlp_backbones.ConvMLP',
        arch='m',
        drop_path_rate=0.1,
        # From weights and two images a GPU, as mmdet's ResNets.
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://shi-labs.com/projects/convmlp/checkpoints/convmlp_m_imagenet.pth',
        ),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
