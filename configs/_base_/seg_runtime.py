# What every segmentor is trained with.
default_scope = 'mmseg'
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # The last three checkpoints are kept, and the one with the best mIoU; resume.pth, to go on
    # from after a stop, is at most 2,000 iterations old.
    checkpoint=dict(
        type='mlp_backbones.SafeCheckpointHook',
        by_epoch=False,
        interval=16000,
        max_keep_ckpts=3,
        save_best='mIoU',
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    finite=dict(type='mlp_backbones.FiniteHook'),
    bad_data=dict(type='mlp_backbones.BadDataHook'),
    visualization=dict(type='SegVisualizationHook'),
)
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='SegLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
# A seed of its own for each process, or all would drop the same paths.
randomness = dict(seed=0, diff_rank_seed=True)
custom_hooks = [dict(type='mlp_backbones.ValLossHook')]
