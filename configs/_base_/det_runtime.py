# What every detector is trained with.
_base_ = 'mmdet::_base_/default_runtime.py'

# All checkpoints are kept, and the one with the best box AP in a file of its own.
default_hooks = dict(checkpoint=dict(type='mlp_backbones.SafeCheckpointHook', save_best='auto'))
# A seed of its own for each process, or all would drop the same paths.
randomness = dict(seed=0, diff_rank_seed=True)
custom_hooks = [dict(type='mlp_backbones.ValLossHook')]
