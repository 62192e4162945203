import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config, ConfigDict
from mmengine.logging import HistoryBuffer

from mlp_backbones.engine import launch

names = st.text('abc', min_size=1, max_size=3)
paths = st.lists(names, min_size=1, max_size=4).map('/'.join)
nodes = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), paths, st.just('')),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(names, inner, max_size=3),
        st.dictionaries(names, inner, max_size=3).map(ConfigDict),
    ),
    max_leaves=12,
)


def leaves(node):
    if isinstance(node, dict):
        return [leaf for value in node.values() for leaf in leaves(value)]
    if isinstance(node, (list, tuple)):
        return [leaf for value in node for leaf in leaves(value)]
    return [node]


def is_below(path, root):
    return isinstance(path, str) and (path + '/').startswith(root + '/')


@given(nodes, paths)
def test_moving_a_data_root_moves_what_is_below_it_and_nothing_else(node, old):
    before = copy.deepcopy(node)
    moved = launch.move_data_root(node, old, '/new')
    assert node == before  # a copy
    assert type(moved) is type(node)
    for was, now in zip(leaves(node), leaves(moved), strict=True):
        assert now == ('/new' + was[len(old) :] if is_below(was, old) else was)


@given(nodes, paths)
def test_moving_a_data_root_there_and_back_changes_nothing(node, old):
    there = launch.move_data_root(node, old, '/new')
    assert launch.move_data_root(there, '/new', old) == node


@pytest.mark.parametrize('old', ['data/coco', 'data/coco/'])
@pytest.mark.parametrize('new', ['/x', '/x/', 'data/coco/more'])
def test_slashes_at_the_end_of_a_data_root_do_not_matter(old, new):
    cfg = dict(data_root=old, ann_file=old.rstrip('/') + '/a.json', other='data/coco2/a.json')
    moved = launch.move_data_root(cfg, old, new)
    new = new.rstrip('/')
    assert moved.pop('data_root').rstrip('/') == new
    assert moved == dict(ann_file=f'{new}/a.json', other='data/coco2/a.json')


def coco_like(root='data/coco/'):
    dataloader = dict(
        dataset=dict(data_root=root, ann_file='val.json', data_prefix=dict(img='val/'))
    )
    return Config(
        dict(
            data_root=root,
            val_dataloader=dataloader,
            val_evaluator=dict(type='CocoMetric', ann_file=root + 'val.json'),
            val_cfg=dict(),
            test_dataloader=copy.deepcopy(dataloader),
            test_evaluator=[dict(type='CocoMetric', ann_file=root + 'val.json')],
            test_cfg=dict(),
        )
    )


def test_longer_options_win_over_data_root():
    cfg = coco_like()
    launch.apply_options(cfg, {'test_dataloader.dataset.data_root': '/b', 'data_root': '/a'})
    assert cfg.data_root == '/a'
    assert cfg.val_dataloader.dataset.data_root == '/a/'
    assert cfg.val_evaluator.ann_file == '/a/val.json'
    assert cfg.test_dataloader.dataset.data_root == '/b'
    assert cfg.test_evaluator[0].ann_file == '/a/val.json'


def test_options_that_do_not_fit_the_config_are_refused():
    with pytest.raises(ValueError, match='no top-level data_root'):
        launch.apply_options(Config(dict(a=1)), {'data_root': '/a'})
    with pytest.raises(ValueError, match='is no path'):
        launch.apply_options(coco_like(), {'data_root': 3})
    with pytest.raises(ValueError, match=r'test_evaluator\.7\.ann_file=x does not fit'):
        launch.apply_options(coco_like(), {'test_evaluator.7.ann_file': 'x'})
    with pytest.raises(ValueError, match='does not fit'):
        launch.apply_options(coco_like(), {'data_root.x': '1'})


def test_data_that_is_there_passes_and_each_missing_part_is_named(tmp_path):
    root = f'{tmp_path}/coco/'
    cfg = coco_like(root)
    with pytest.raises(FileNotFoundError) as error:
        launch.check_data(cfg, ['val', 'test'])
    assert f'{root} does not exist (val_dataloader.dataset.data_root)' in str(error.value)
    assert f'{root}val.json does not exist (test_evaluator.0.ann_file)' in str(error.value)
    assert 'docs/training.md#data' in str(error.value)

    (tmp_path / 'coco/val').mkdir(parents=True)
    with pytest.raises(FileNotFoundError) as error:
        launch.check_data(cfg, ['val'])
    assert 'val.json does not exist (val_dataloader.dataset.ann_file)' in str(error.value)
    assert 'val/ is empty (val_dataloader.dataset.data_prefix.img)' in str(error.value)
    assert '(test_' not in str(error.value)  # that loop does not run

    (tmp_path / 'coco/val.json').write_text('{}')
    (tmp_path / 'coco/val/1.jpg').write_text('')
    launch.check_data(cfg, ['train', 'val', 'test'])  # no train loop is configured


def test_data_is_looked_for_inside_dataset_wrappers_and_not_in_other_storage():
    missing = dict(data_root='/nowhere', ann_file='a.json')
    dataset = dict(
        type='RepeatDataset',
        dataset=dict(
            type='ConcatDataset',
            datasets=[
                dict(data_root='s3://bucket', ann_file='a.json', data_prefix=dict(img='a')),
                dict(missing, backend_args=dict(backend='petrel')),
                missing,
            ],
        ),
    )
    cfg = Config(dict(train_dataloader=dict(dataset=dataset), train_cfg=dict()))
    with pytest.raises(FileNotFoundError) as error:
        launch.check_data(cfg, ['train'])
    lines = [line for line in str(error.value).splitlines() if 'does not exist' in line]
    assert lines == [
        '  /nowhere does not exist (train_dataloader.dataset.dataset.datasets.2.data_root)'
    ]


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
    launch.check_checkpoint(str(path), '--resume', resume=True)
    with pytest.raises(FileNotFoundError, match=f'did you mean {path}'):
        launch.check_checkpoint(str(tmp_path / 'epoch_2.pth'), 'checkpoint')
    path.write_text('# not a checkpoint')
    init_cfg = dict(type='mmengine.Pretrained', checkpoint=str(path))
    for model, setting in (
        (dict(init_cfg=init_cfg), 'model.init_cfg'),
        (dict(backbone=dict(init_cfg=[init_cfg])), r'model.backbone.init_cfg.0'),
    ):
        with pytest.raises(ValueError, match=f'^{setting}: {path} cannot be read'):
            launch.check_start(Config(dict(model=model)))


def test_resuming_needs_more_than_weights(tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=training_state()['state_dict']), path)
    cfg = Config(dict(load_from=str(path), resume=False, work_dir=str(tmp_path)))
    launch.check_start(cfg)
    cfg.resume = True
    with pytest.raises(ValueError, match='no message_hub, meta, optimizer.*load_from='):
        launch.check_start(cfg)


def test_resuming_from_the_latest_checkpoint_looks_at_it_first(tmp_path):
    cfg = Config(dict(load_from=None, resume=True, work_dir=str(tmp_path)))
    launch.check_start(cfg)  # none yet: training starts from the beginning
    (tmp_path / 'last_checkpoint').write_text(f'{tmp_path}/epoch_3.pth')
    with pytest.raises(FileNotFoundError, match='last_checkpoint: there is no checkpoint'):
        launch.check_start(cfg)


def test_amp_needs_a_plain_optim_wrapper():
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper')))
    launch.enable_amp(cfg)
    assert cfg.optim_wrapper == dict(type='AmpOptimWrapper', loss_scale='dynamic')
    launch.enable_amp(cfg)
    cfg.optim_wrapper.type = 'ApexOptimWrapper'
    with pytest.raises(ValueError, match='ApexOptimWrapper'):
        launch.enable_amp(cfg)


def test_auto_scale_lr_needs_the_batch_size_that_the_rate_is_for():
    cfg = Config(dict(auto_scale_lr=dict(base_batch_size=16)))
    launch.enable_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr.enable
    for settings in (dict(), dict(auto_scale_lr=dict(enable=False))):
        with pytest.raises(ValueError, match='base_batch_size'):
            launch.enable_auto_scale_lr(Config(settings))


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm', 'mpi'])
def test_a_launcher_that_started_nothing_is_named(launcher, monkeypatch):
    for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_LOCAL_RANK'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=f'--launcher {launcher} is for processes'):
        launch.prepare_launcher(Config(dict(launcher=launcher)))


@pytest.mark.skipif(torch.cuda.is_available(), reason='a GPU is used then')
def test_on_the_cpu_gloo_and_bn_replace_nccl_and_sync_bn(monkeypatch, tmp_path):
    for name, value in dict(RANK=0, WORLD_SIZE=1, LOCAL_RANK=0).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
    monkeypatch.setenv('MASTER_PORT', '0')
    norm_cfg = dict(type='SyncBN', requires_grad=True)
    model = dict(type='X', heads=[dict(norm_cfg=norm_cfg)], neck=dict(norm_cfg=norm_cfg))
    env_cfg = dict(dist_cfg=dict(backend='nccl'))
    cfg = Config(dict(launcher='pytorch', model=model, env_cfg=env_cfg))
    try:
        launch.prepare_launcher(cfg)
        assert torch.distributed.get_backend() == 'gloo'
    finally:
        torch.distributed.destroy_process_group()
    bn = dict(type='BN', requires_grad=True)
    assert cfg.model == dict(type='X', heads=[dict(norm_cfg=bn)], neck=dict(norm_cfg=bn))
    assert cfg.model_wrapper_cfg.device_ids is None
