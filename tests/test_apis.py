"""A checkpoint alone becomes a model or an inferencer, and nothing in it is run."""

import os

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope

from mlp_backbones.apis import inferencer, init_model
from mlp_backbones.checkpoints import CheckpointError
from mlp_backbones.checkpoints.plain_config import parse
from mlp_backbones.engine import launch

SMALL = {
    'configs/gmlp_maskrcnn_coco.py': {
        'model.neck.in_channels': [32, 64, 128, 256],
        'model.roi_head.bbox_head.fc_out_channels': 16,
    },
    'configs/gmlp_upernet_ade20k.py': {
        'model.decode_head.in_channels': [32, 64, 128, 256],
        'model.decode_head.channels': 16,
        'model.auxiliary_head.in_channels': 128,
        'model.auxiliary_head.channels': 16,
    },
}
DET, SEG = SMALL


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """What mmengine saves, of both kinds of models, small: {config: path}."""
    paths = {}
    for name, options in SMALL.items():
        cfg = launch.load_config(name, {'model.backbone.arch': 'nano', **options})
        init_default_scope(cfg.default_scope)
        model = MODELS.build(cfg.model)
        meta = dict(epoch=1, iter=2, cfg=cfg.pretty_text)
        dataset = DATASETS.get(f'{cfg.default_scope}.{cfg.test_dataloader.dataset.type}')
        meta['dataset_meta'] = dataset.METAINFO
        paths[name] = str(tmp_path_factory.mktemp('w') / 'epoch_1.pth')
        torch.save(
            dict(
                meta=meta,
                state_dict=model.state_dict(),
                message_hub=dict(runtime_info=dict(cfg=cfg.pretty_text)),
            ),
            paths[name],
        )
    return paths


def changed(path, tmp_path, edit):
    """A copy of a checkpoint with another config."""
    content = torch.load(path)
    info = content['message_hub']['runtime_info']
    info['cfg'] = content['meta']['cfg'] = edit(info['cfg'])
    path = str(tmp_path / 'changed.pth')
    torch.save(content, path)
    return path


@pytest.mark.parametrize('name', [DET, SEG])
def test_a_checkpoint_is_enough(name, checkpoints):
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    weights = torch.load(checkpoints[name])['state_dict']
    model = init_model(checkpoints[name], device='cpu')
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    infer = inferencer(checkpoints[name], device='cpu', show_progress=False)
    result = infer(image)['predictions']
    assert 'bboxes' in result[0] if name == DET else result.shape == (60, 80)
    assert all(torch.equal(v, weights[k]) for k, v in infer.model.state_dict().items())


def test_a_config_may_be_given(checkpoints, tmp_path):
    options = {'model.backbone.arch': 'nano', **SMALL[DET], 'model.test_cfg.rcnn.score_thr': 0.5}
    content = dict(state_dict=torch.load(checkpoints[DET])['state_dict'])
    torch.save(content, tmp_path / 'weights.pth')
    model = init_model(str(tmp_path / 'weights.pth'), DET, 'cpu', options)
    assert model.test_cfg.rcnn.score_thr == 0.5
    with pytest.raises(CheckpointError, match='weights.pth has no config in it: give one'):
        init_model(str(tmp_path / 'weights.pth'))
    with pytest.raises(CheckpointError, match='no weights for decode_head: it holds'):
        init_model(
            str(tmp_path / 'weights.pth'),
            SEG,
            'cpu',
            {'model.backbone.arch': 'nano', **SMALL[SEG]},
        )


def test_classes_are_those_of_the_checkpoint_and_of_the_config(checkpoints, tmp_path):
    options = {'model.backbone.arch': 'nano', **SMALL[DET]}
    content = torch.load(checkpoints[DET])
    classes = content['meta'].pop('dataset_meta')['classes']
    torch.save(content, tmp_path / 'a.pth')
    named = {'test_dataloader.dataset.metainfo': dict(classes=classes[::-1])}
    model = init_model(str(tmp_path / 'a.pth'), DET, 'cpu', options | named)
    assert list(model.dataset_meta['classes']) == list(classes[::-1])
    with pytest.raises(
        CheckpointError,
        match=r'trained for 80 classes \(person, bicycle, car, ...\), the config is for 80 '
        r'classes \(toothbrush.*Give the config that it was trained with',
    ):
        init_model(checkpoints[DET], DET, 'cpu', options | named)


@pytest.mark.parametrize('load', [init_model, inferencer])
@pytest.mark.parametrize(
    'edit, message',
    [
        (lambda cfg: f'import os\nos.mkdir(TRACE)\n{cfg}', 'line 1 is more than data: imp'),
        (lambda cfg: f'x = __import__("os").mkdir(TRACE)\n{cfg}', 'more than data: __import__'),
        (lambda cfg: cfg + '\nmodel["type"] = "os.mkdir"', 'more than data: model'),
        (lambda cfg: cfg + '\nx = [i for i in range(9)]', 'more than data: .i for i'),
        (lambda cfg: cfg + '\nmodel = dict(type="os.mkdir", path=TRACE)', "type='os.mkdir' is n"),
        (lambda cfg: cfg + '\nmodel = dict(type="mmengine.mkdir_or_exist", dir_name=TRACE)',
         "type='mmengine.mkdir_or_exist' is not reg"),
        (lambda cfg: cfg.replace("'MaskRCNN'", "'mmdet.apis.MaskRCNN'"), 'is not registered'),
        (lambda cfg: cfg + '\ndefault_scope = "os"', "default_scope='os' is neither"),
        (lambda cfg: cfg + '\nmodel = 1', 'it has no model'),
        (lambda cfg: 'model = dict(', 'cannot be read'),
    ],
)  # fmt: skip
def test_a_config_that_would_run_code_is_refused(load, edit, message, checkpoints, tmp_path):
    trace = tmp_path / 'it_ran'
    path = changed(
        checkpoints[DET], tmp_path, lambda cfg: edit(cfg).replace('TRACE', repr(str(trace)))
    )
    with pytest.raises(CheckpointError, match=f'changed.pth is refused: .*{message}'):
        load(path, device='cpu')
    assert not trace.exists()


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize('load', [init_model, inferencer])
@pytest.mark.parametrize('config', [None, DET])
def test_a_pickle_that_would_run_code_is_refused(load, config, checkpoints, tmp_path):
    content = dict(torch.load(checkpoints[DET]), evil=Code(str(tmp_path / 'it_ran')))
    torch.save(content, tmp_path / 'evil.pth')
    options = {'model.backbone.arch': 'nano', **SMALL[DET]} if config else None
    with pytest.raises(CheckpointError, match='evil.pth cannot be read .* nothing in it was run'):
        load(str(tmp_path / 'evil.pth'), config, 'cpu', options)
    assert not (tmp_path / 'it_ran').exists()


def test_what_a_config_may_say_beside_the_model_is_left_out(checkpoints, tmp_path):
    def edit(cfg):
        return f"""{cfg}
custom_imports = dict(imports=['antigravity'])
visualizer = dict(type='DetLocalVisualizer', vis_backends=[dict(type='WandbVisBackend')])
""".replace("arch='nano'", "arch='nano', init_cfg=dict(type='Pretrained', checkpoint='http://x')")

    path = changed(checkpoints[DET], tmp_path, edit)
    before = set(os.listdir(tmp_path))
    infer = inferencer(path, device='cpu', show_progress=False)
    assert infer.model.backbone.init_cfg is None and not infer.visualizer._vis_backends
    assert set(os.listdir(tmp_path)) == before


def test_every_config_of_ours_is_data():
    for path in [DET, SEG]:
        text = Config.fromfile(path).pretty_text
        assert parse(text) == Config.fromstring(text, '.py').to_dict()
