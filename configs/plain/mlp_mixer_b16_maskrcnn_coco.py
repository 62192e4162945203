_base_ = ['../_base_/plain_pretrained_maskrcnn_coco.py', '../_base_/presets/mlp_mixer_b16.py']

model = _base_.preset
