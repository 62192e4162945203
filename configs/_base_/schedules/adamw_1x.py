# 12 epochs of 8 GPUs x 2 images with AdamW, in the place of mmdet's schedule_1x.py, whose SGD
# these backbones do not learn with.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    # flat: gains that are neither norm nor bias (LayerScale, Affine). A head such as RTMDet's
    # uses some weights twice.
    paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0, bypass_duplicate=True
    ),
    clip_grad=dict(max_norm=5.0),
)

# mmdet's 1x, but for a warm-up of 1000 iterations instead of 500.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)
