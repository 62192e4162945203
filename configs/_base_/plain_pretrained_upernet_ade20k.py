# A plain backbone with published weights: the earlier a layer, the smaller its rate.
# 0.7 is for 12 layers, 0.8 for 24, 0.9 for 32: what ViTDet takes for ViT-B, -L and -H.
_base_ = './plain_upernet_ade20k.py'

optim_wrapper = dict(
    constructor='mlp_backbones.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.7),
)
