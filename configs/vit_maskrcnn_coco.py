_base_ = './_base_/plain_maskrcnn_coco.py'

model = dict(
    backbone=dict(
        type='mlp_backbones.PlainViT',
        arch='s',
        # Attention in windows but for every third layer, as in ViTDet.
        resolution='window+window+global',
        drop_path_rate=0.1,
    )
)
