_base_ = '../_base_/plain_maskrcnn_coco.py'

model = dict(
    # The statistics that the published weights were trained with.
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(type='mlp_backbones.PlainMLPMixer', arch='b16', drop_path_rate=0.1),
    neck=dict(in_channels=768),
)
