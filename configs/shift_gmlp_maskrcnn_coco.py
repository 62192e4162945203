_base_ = './_base_/maskrcnn_coco.py'

model = dict(
    backbone=dict(
        type='mlp_backbones.ShiftGMLP',
        arch='tiny',
        drop_path_rate=0.2,
        # Two images a GPU are few for the statistics of a batch norm that starts from nothing.
        # From weights, as mmdet's ResNets do: norm_cfg=dict(type='BN'), norm_eval=True.
        norm_cfg=dict(type='SyncBN', requires_grad=True),
    )
)
