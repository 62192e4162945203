"""The sizes of the images reach the backbone through real detectors and segmentors."""

import copy
import pickle
import re

import pytest
import shipped
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData
from shipped import DETECTORS_AND_SEGMENTORS, PUBLISHED, ROOT

from mlp_backbones.engine import launch
from mlp_backbones.models import ValidSizes, data_preprocessors
from mlp_backbones.models.backbones.base import Backbone
from mlp_backbones.models.layers import valid_sizes
from mlp_backbones.registry import MODELS

mmdet_models = pytest.importorskip('mmdet.models')
mmseg_models = pytest.importorskip('mmseg.models')

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


@pytest.mark.parametrize('path', DETECTORS_AND_SEGMENTORS, ids=shipped.name)
def test_every_config_hands_the_sizes_over_but_the_published(path):
    """Those have the data preprocessors that their results were measured with."""
    kind = launch.load_config(str(path)).model.data_preprocessor.type
    scope, _, name = kind.rpartition('.')
    assert name in ('DetDataPreprocessor', 'SegDataPreProcessor')
    assert scope == ('' if path in PUBLISHED else 'mlp_backbones')


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


def test_a_tensor_alone_is_a_full_canvas(monkeypatch):
    seen, model = Seen(monkeypatch), det_model().eval()
    with torch.no_grad():
        model.extract_feat(torch.randn(1, 3, 64, 64))
    assert seen == [None]


def test_images_without_samples_have_their_sizes(monkeypatch):
    seen, model = Seen(monkeypatch), det_model().eval()
    features(model, dict(det_batch(SIZES[:2]), data_samples=None))
    assert seen == [SIZES[:2]]


@pytest.mark.parametrize('said', [(131, 100), (64, 64), (999, 3)])
@pytest.mark.parametrize(
    'make_model, make_batch', [(det_model, det_batch), (seg_model, seg_batch)]
)
def test_an_image_is_believed_more_than_its_img_shape(make_model, make_batch, said, monkeypatch):
    """A transform of the user's may change the image and not what is said about it."""
    seen, model, batch = Seen(monkeypatch), make_model().eval(), make_batch(SIZES)
    batch['data_samples'][0].set_metainfo(dict(img_shape=said))
    features(model, batch, training=True)
    assert seen == [SIZES]


@pytest.mark.parametrize('said', [(100, 131), (50, 262)])
def test_an_image_that_is_resized_with_its_batch_has_its_new_size(said, monkeypatch):
    seen, model = Seen(monkeypatch), det_model().eval()
    augment = dict(type='BatchSyncRandomResize', random_size_range=(256, 256))
    model.data_preprocessor = MODELS.build(
        dict(
            type='mlp_backbones.DetDataPreprocessor',
            pad_size_divisor=128,
            batch_augments=[dict(augment, interval=1)],
        )
    )
    MessageHub.get_current_instance().update_info('iter', 0)  # as a Runner does
    resize = model.data_preprocessor.batch_augments[0]
    resize._input_size = (256, 512)  # from a canvas of 128 x 256
    batch = det_batch([(100, 131), (128, 256)])
    batch['data_samples'][0].set_metainfo(dict(img_shape=said))
    features(model, batch, training=True)
    assert seen == [[(200, 262), (256, 512)]]


def test_the_classes_are_those_of_the_code_bases():
    assert issubclass(data_preprocessors.DetDataPreprocessor, mmdet_models.DetDataPreprocessor)
    assert issubclass(data_preprocessors.SegDataPreProcessor, mmseg_models.SegDataPreProcessor)
    assert type(det_model().data_preprocessor) is data_preprocessors.DetDataPreprocessor
    with pytest.raises(AttributeError, match="no attribute 'Preprocessor'"):
        _ = data_preprocessors.Preprocessor


def test_others_inherit_from_them(monkeypatch):
    class FourBands(data_preprocessors.DetDataPreprocessor):
        def __init__(self, **settings):
            super().__init__(**settings)
            self.register_buffer('mean', torch.zeros(4, 1, 1), persistent=False)
            self.register_buffer('std', torch.ones(4, 1, 1), persistent=False)
            self._enable_normalize = True

    class BoxInst(ValidSizes, mmdet_models.BoxInstDataPreprocessor):
        pass

    batch = det_batch(SIZES[:2])
    four = dict(batch, inputs=[torch.cat([x, x[:1]]) for x in batch['inputs']])
    inputs = FourBands()(four)['inputs']
    assert inputs.shape[1] == 4 and inputs.valid_sizes.tolist() == [*map(list, SIZES[:2])]
    box_inst = BoxInst(mean=[0] * 3, std=[1] * 3, pad_size_divisor=32)
    inputs = box_inst(det_batch(SIZES[:2]), training=True)['inputs']
    assert inputs.valid_sizes.tolist() == [*map(list, SIZES[:2])]


def test_the_data_preprocessor_is_copied_and_pickled():
    preprocessor = det_model().data_preprocessor
    for twin in (copy.deepcopy(preprocessor), pickle.loads(pickle.dumps(preprocessor))):
        assert twin(det_batch(SIZES[:2]))['inputs'].valid_sizes.tolist() == [*map(list, SIZES[:2])]


@pytest.mark.parametrize(
    'change, cause',
    [
        (lambda x: x.double(), 'a cast from torch.float32 to torch.float64'),
        (lambda x: x.to(memory_format=torch.channels_last), 'a copy in another memory format'),
        (lambda x: x.clone(), 'a copy of the same values'),
        (lambda x: x / 2, 'one of other values and the same shape'),
        (lambda x: x[:1], r'one of shape \(1, 3, 128, 160\) for one of \(3, 3, 128, 160\)'),
        (lambda x: x, None),
    ],
)
def test_sizes_that_do_not_arrive_are_told_once(change, cause, monkeypatch):
    told = []
    monkeypatch.setattr(valid_sizes, 'print_log', lambda text, **_: told.append(text))
    monkeypatch.setattr(valid_sizes, '_told', [])
    model = det_model()
    for _ in range(2):
        data = model.data_preprocessor(det_batch(SIZES), True)
        x = change(data['inputs'])
        model.backbone.to(x.dtype)(x)
        model.backbone(torch.rand(1, 3, 64, 64).to(x))  # a batch of somebody else
    assert len(told) == (cause is not None)
    if cause:
        assert re.search(cause, told[0]) and 'y.valid_sizes = x.valid_sizes' in told[0]
