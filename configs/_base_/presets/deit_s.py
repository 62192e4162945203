# What configs/plain/deit_s_*.py share: the model's part.
preset = dict(
    backbone=dict(
        type='mlp_backbones.PlainViT',
        arch='s',
        # Attention in windows of the size of training but for every third layer, as in ViTDet.
        resolution='window+window+global',
        drop_path_rate=0.1,
        # Distilled: deit_small_distilled_patch16_224-649709d9.pth beside it.
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://dl.fbaipublicfiles.com/deit/deit_small_patch16_224-cd65a155.pth',
        ),
    ),
)
