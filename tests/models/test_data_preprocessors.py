"""The sizes of the images reach the backbone through real detectors and segmentors."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData

from mlp_backbones.engine import launch
from mlp_backbones.models.backbones.base import Backbone

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path for path in (ROOT / 'configs').rglob('*.py') if '_base_' not in path.parts)
SIZES = [(100, 131), (128, 90), (128, 160)]


def det_model(base=None, **backbone):
    """Our Mask R-CNN, or the detector of one of mmdet's base configs, with a small GMLP."""
    from mmdet.registry import MODELS

    ours = launch.load_config(str(ROOT / 'configs/gmlp_maskrcnn_coco.py')).model
    cfg = ours
    if base is not None:
        text = f"_base_ = 'mmdet::_base_/models/{base}.py'"
        cfg = Config.fromstring(text, '.py').model
        cfg.data_preprocessor.type = ours.data_preprocessor.type
    cfg.backbone = dict(
        type='mlp_backbones.GMLP',
        arch='nano',
        drop_path_rate=0.0,
        pretrain_img_size=64,
        **backbone,
    )
    cfg.neck.in_channels = [32, 64, 128, 256]
    init_default_scope('mmdet')
    return MODELS.build(cfg)


def seg_model():
    from mmseg.registry import MODELS

    cfg = launch.load_config(str(ROOT / 'configs/demo/gmlp_upernet.py')).model
    init_default_scope('mmseg')
    return MODELS.build(cfg)


def det_batch(sizes):
    from mmdet.structures import DetDataSample

    torch.manual_seed(0)
    samples = []
    for h, w in sizes:
        sample = DetDataSample(
            metainfo=dict(img_shape=(h, w), ori_shape=(h, w), scale_factor=(1, 1))
        )
        boxes = torch.tensor([[5.0, 5.0, 60.0, 70.0]])
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.zeros(1, dtype=torch.long))
        samples.append(sample)
    inputs = [torch.randint(256, (3, *size), dtype=torch.uint8) for size in sizes]
    return dict(inputs=inputs, data_samples=samples)


def seg_batch(sizes):
    from mmseg.structures import SegDataSample

    torch.manual_seed(0)
    samples = []
    for size in sizes:
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size))
        sample.gt_sem_seg = PixelData(data=torch.randint(4, (1, *size)))
        samples.append(sample)
    inputs = [torch.randint(256, (3, *size), dtype=torch.uint8) for size in sizes]
    return dict(inputs=inputs, data_samples=samples)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: f'{path.parent.name}/{path.stem}')
def test_every_config_hands_the_sizes_over(path):
    kind = launch.load_config(str(path)).model.data_preprocessor.type
    assert kind in ('mlp_backbones.DetDataPreprocessor', 'mlp_backbones.SegDataPreProcessor')


def features(model, batch, training=False):
    data = model.data_preprocessor(copy.deepcopy(batch), training)
    with torch.no_grad():
        return model.backbone(data['inputs'])


@pytest.mark.parametrize(
    'make_model, make_batch', [(det_model, det_batch), (seg_model, seg_batch)]
)
def test_an_image_has_the_features_that_it_has_alone(make_model, make_batch):
    model = make_model().eval()
    batch = make_batch(SIZES)
    together = features(model, batch, training=True)
    for i, (h, w) in enumerate(SIZES):
        alone = {key: values[i : i + 1] for key, values in batch.items()}
        for level, ours, own in zip(range(4), together, features(model, alone), strict=True):
            stride = 4 * 2**level
            rows, columns = -(-h // stride), -(-w // stride)
            torch.testing.assert_close(
                ours[i, :, :rows, :columns], own[0, :, :rows, :columns], rtol=1e-5, atol=1e-5
            )


class Seen(list):
    """What every call of a backbone takes for the sizes of its images."""

    def __init__(self, monkeypatch):
        super().__init__()
        original = Backbone.valid_sizes

        def valid_sizes(backbone, x, sizes):
            found = original(backbone, x, sizes)
            self.append(None if found is None else [tuple(size) for size in found.tolist()])
            return found

        monkeypatch.setattr(Backbone, 'valid_sizes', valid_sizes)


@pytest.mark.parametrize('base', [None, 'retinanet_r50_fpn', 'cascade-rcnn_r50_fpn'])
def test_detectors_train_and_predict_with_the_sizes(base, monkeypatch):
    seen, model = Seen(monkeypatch), det_model(base)
    batch = det_batch(SIZES[:2])
    if base is None:
        model.roi_head.mask_head = None  # the boxes are what this batch has
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    with torch.no_grad():
        model.eval().test_step(det_batch(SIZES[:2]))
    assert seen == [SIZES[:2]] * 2


def test_upernet_trains_and_predicts_with_the_sizes(monkeypatch):
    seen, model = Seen(monkeypatch), seg_model()
    model(**model.data_preprocessor(seg_batch(SIZES), True), mode='loss')
    # mmseg pads in testing only if told to, and then images of one size
    model.data_preprocessor.test_cfg = dict(size_divisor=32)
    with torch.no_grad():
        model.eval().test_step(seg_batch([(100, 131)] * 2))
    assert seen == [SIZES, [(100, 131)] * 2]


def test_images_that_fill_the_canvas_take_the_short_way(monkeypatch):
    seen, model = Seen(monkeypatch), det_model().eval()
    features(model, det_batch([(64, 96)] * 2))
    assert seen == [None]


def test_the_sizes_survive_ddp_amp_and_checkpointing(monkeypatch, tmp_path):
    seen, model = Seen(monkeypatch), det_model('retinanet_r50_fpn', with_cp=True)
    torch.distributed.init_process_group('gloo', f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        wrapped = MMDistributedDataParallel(model, device_ids=None)
        optim_wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), 1e-3))
        with torch.autocast('cpu', torch.bfloat16):
            wrapped.train_step(det_batch(SIZES[:2]), optim_wrapper)
    finally:
        torch.distributed.destroy_process_group()
    assert seen == [SIZES[:2]]


def test_without_the_sizes_all_images_fill_the_canvas(monkeypatch):
    seen, model = Seen(monkeypatch), det_model().eval()
    with torch.no_grad():
        model.extract_feat(torch.randn(1, 3, 64, 64))
    batch = det_batch([(60, 60)])
    del batch['data_samples']
    features(model, dict(batch, data_samples=None))
    assert seen == [None, None]


def test_the_data_preprocessor_is_copied_and_pickled_with_its_hook():
    preprocessor = det_model().data_preprocessor
    for twin in (copy.deepcopy(preprocessor), pickle.loads(pickle.dumps(preprocessor))):
        assert twin(det_batch(SIZES[:2]))['inputs'].valid_sizes.tolist() == [*map(list, SIZES[:2])]
