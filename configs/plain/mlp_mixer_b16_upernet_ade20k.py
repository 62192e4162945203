_base_ = ['../_base_/plain_pretrained_upernet_ade20k.py', '../_base_/presets/mlp_mixer_b16.py']

model = _base_.preset
