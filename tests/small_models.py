"""A detector and a segmentor with random weights and three classes, as mmengine saves them."""

from pathlib import Path

import torch
from mmengine.registry import MODELS, init_default_scope

from mlp_backbones.engine import launch

ROOT = Path(__file__).resolve().parents[1]
CLASSES = {'mmdet': ('red', 'green', 'blue'), 'mmseg': ('sky', 'road', 'tree')}
PALETTE = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
CONFIGS = dict(mmdet='configs/demo/gmlp_maskrcnn.py', mmseg='configs/demo/gmlp_upernet.py')


def small_config(scope):
    cfg = launch.load_config(str(ROOT / CONFIGS[scope]))
    cfg.test_dataloader.dataset.metainfo = dict(classes=CLASSES[scope], palette=PALETTE)
    if scope == 'mmdet':
        cfg.model.roi_head.bbox_head.num_classes = cfg.model.roi_head.mask_head.num_classes = 3
        cfg.model.test_cfg.rcnn.max_per_img = 5
    else:
        cfg.model.decode_head.num_classes = 3
        # as tools/train.py --data has it first
        changes = dict(type='mlp_backbones.SetLabelMap', changes=[[11, 255]])
        pipeline = cfg.test_dataloader.dataset.pipeline
        cfg.test_dataloader.dataset.pipeline = [changes, *pipeline]
    return cfg


def save_small(scope, path):
    """Write a checkpoint, with its config, of 'mmdet' or 'mmseg'."""
    cfg = small_config(scope)
    init_default_scope(scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    meta = dict(dataset_meta=cfg.test_dataloader.dataset.metainfo.to_dict())
    hub = dict(runtime_info=dict(cfg=cfg.pretty_text))
    torch.save(dict(meta=meta, state_dict=model.state_dict(), message_hub=hub), path)
    return str(path)
