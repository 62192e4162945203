_base_ = ['../_base_/plain_pretrained_upernet_ade20k.py', '../_base_/presets/resmlp_s24.py']

model = _base_.preset
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=_base_.layer_decay_rate))
