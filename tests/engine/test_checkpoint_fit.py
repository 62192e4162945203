"""A checkpoint that does not fit ends a run; what mmengine is meant to load does not."""

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from torch import nn

from mlp_backbones.checkpoints import CheckpointError
from mlp_backbones.engine.checkpoint_fit import check_checkpoint, check_fit, check_same
from mlp_backbones.engine.training_start import check_start
from mlp_backbones.models import GMLP, MLPMixer


def model(*heads, width=2):
    parts = dict(backbone=GMLP('nano', out_indices=0), neck=nn.Linear(2, 2))
    return nn.ModuleDict({**parts, **{head: nn.Linear(2, width) for head in heads}})


def test_a_checkpoint_of_the_model_fits():
    m = model('decode_head', 'auxiliary_head')
    weights = m.state_dict()
    check_fit(m, weights, whole=True)
    check_fit(m, {f'module.{name}': value for name, value in weights.items()}, whole=True)
    tested = {name: w for name, w in weights.items() if not name.startswith('auxiliary_head')}
    check_fit(m, tested, whole=True)
    backbone = {name: w for name, w in weights.items() if name.startswith('backbone')}
    check_fit(m, backbone, whole=False)
    check_fit(model('decode_head', width=7), weights, whole=False)  # mmengine leaves out its head


def test_what_fills_nothing_is_refused():
    weights = {'conv1.weight': torch.zeros(2), 'layer1.0.bn1.weight': torch.zeros(2)}
    message = 'no weights for the model: it holds conv1, layer1, the model has backbone, neck, h'
    for whole in (True, False):
        with pytest.raises(CheckpointError, match=message):
            check_fit(model('head'), weights, whole)


def test_a_head_without_weights_is_not_tested():
    weights = model('rpn_head', 'roi_head').state_dict()
    message = 'no weights for decode_head: it holds backbone, neck, rpn_head, roi_head, the model'
    with pytest.raises(CheckpointError, match=message):
        check_fit(model('decode_head', 'auxiliary_head'), weights, whole=True)
    message = r'decode_head.weight: the checkpoint has shape \(2, 2\), the model \(7, 2\)'
    with pytest.raises(CheckpointError, match=message):
        check_fit(model('decode_head', width=7), model('decode_head').state_dict(), whole=True)


def test_a_backbone_gets_all_of_its_weights():
    m = model('head')
    weights = m.state_dict()
    del weights['backbone.norms.0.bias']
    for whole in (True, False):
        with pytest.raises(CheckpointError, match='lacks 1 of the .* weights of GMLP, .* norms.0'):
            check_fit(m, weights, whole)
    del weights['backbone.norms.0.weight']  # of its output, which a classifier does not have
    check_fit(m, weights, whole=False)
    with pytest.raises(CheckpointError, match='the checkpoint lacks norms.0.weight, norms.0.bias'):
        check_fit(m, weights, whole=True)
    heads = {name: w for name, w in weights.items() if not name.startswith('backbone')}
    check_fit(m, heads, whole=False)
    heads['backbone.conv1.weight'] = torch.ones(2)
    with pytest.raises(CheckpointError, match='backbone: .* names that match no known.* out'):
        check_fit(m, heads, whole=False)


@pytest.mark.parametrize(
    'other, message',
    [
        (
            GMLP('tiny'),
            'this is a GMLP tiny checkpoint .mlp_backbones.; the backbone is GMLP nano',
        ),
        (MLPMixer('nano'), 'this is a MLPMixer nano checkpoint .*; the backbone is GMLP nano'),
    ],
)
def test_a_backbone_of_another_family_or_preset_is_named(other, message):
    m = nn.ModuleDict(dict(backbone=GMLP('nano')))
    weights = {f'backbone.{name}': value for name, value in other.state_dict().items()}
    for whole in (True, False):
        with pytest.raises(CheckpointError, match=message):
            check_fit(m, weights, whole)


def training_state():
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    return dict(
        meta=dict(epoch=1),
        state_dict=dict(w=torch.ones(2)),
        message_hub=dict(log_scalars=dict(loss=history)),
        optimizer=dict(),
    )


def test_checkpoints_of_every_setting_are_looked_at_first(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    torch.save(training_state(), path)
    check_checkpoint(str(path), '--resume', resume=True)
    with pytest.raises(FileNotFoundError, match=f'did you mean {path}'):
        check_checkpoint(str(tmp_path / 'epoch_2.pth'), 'checkpoint')
    path.write_text('# not a checkpoint')
    init_cfg = dict(type='mmengine.Pretrained', checkpoint=str(path))
    for model, setting in (
        (dict(init_cfg=init_cfg), 'model.init_cfg'),
        (dict(backbone=dict(init_cfg=[init_cfg])), r'model.backbone.init_cfg.0'),
    ):
        with pytest.raises(ValueError, match=f'^{setting}: {path} cannot be read'):
            check_start(Config(dict(model=model)))


def test_resuming_needs_more_than_weights(tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=training_state()['state_dict']), path)
    cfg = Config(dict(load_from=str(path), resume=False, work_dir=str(tmp_path)))
    check_start(cfg)
    cfg.resume = True
    with pytest.raises(ValueError, match='no message_hub, meta, optimizer.*load_from='):
        check_start(cfg)


def test_resuming_from_the_latest_checkpoint_looks_at_it_first(tmp_path):
    cfg = Config(dict(load_from=None, resume=True, work_dir=str(tmp_path)))
    check_start(cfg)  # none yet: training starts from the beginning
    (tmp_path / 'last_checkpoint').write_text(f'{tmp_path}/epoch_3.pth')
    with pytest.raises(FileNotFoundError, match='last_checkpoint: there is no checkpoint'):
        check_start(cfg)


def test_a_training_of_another_model_is_not_resumed():
    """Another width or grid: its optimizer would fit neither."""
    small, large = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 3))
    check_same(small, small.state_dict())
    with pytest.raises(CheckpointError, match=r'0.bias is \(3,\) in the checkpoint'):
        check_same(small, large.state_dict())
    deeper = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match='1.bias is only in the checkpoint.*load_from'):
        check_same(small, deeper.state_dict())
    with pytest.raises(CheckpointError, match='1.bias is only in the model'):
        check_same(deeper, small.state_dict())
