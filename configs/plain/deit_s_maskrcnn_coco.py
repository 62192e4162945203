_base_ = ['../_base_/plain_pretrained_maskrcnn_coco.py', '../_base_/presets/deit_s.py']

model = _base_.preset
