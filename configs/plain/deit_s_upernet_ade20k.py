_base_ = ['../_base_/plain_pretrained_upernet_ade20k.py', '../_base_/presets/deit_s.py']

model = _base_.preset
