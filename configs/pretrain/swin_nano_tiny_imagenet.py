# The attention baseline: a Swin Transformer of 32 to 256 channels. Its weights fit mmdet's and
# mmseg's SwinTransformer, too.
_base_ = './_base_/tiny_imagenet.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        arch=dict(embed_dims=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8)),
        img_size=64,
        pad_small_map=True,
        drop_path_rate=0.0,
        out_indices=[3],
    )
)
