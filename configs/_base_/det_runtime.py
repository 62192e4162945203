# What every detector is trained with.
_base_ = 'mmdet::_base_/default_runtime.py'

# The last three checkpoints are kept, and the one with the best box AP; resume.pth, to go on from
# after a stop, is at most 2,000 iterations old.
default_hooks = dict(
    checkpoint=dict(type='mlp_backbones.SafeCheckpointHook', max_keep_ckpts=3, save_best='auto'),
    finite=dict(type='mlp_backbones.FiniteHook'),
    bad_data=dict(type='mlp_backbones.BadDataHook'),
)
# A seed of its own for each process, or all would drop the same paths.
randomness = dict(seed=0, diff_rank_seed=True)
custom_hooks = [dict(type='mlp_backbones.ValLossHook')]
