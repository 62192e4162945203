"""From the arguments of tools/train.py to a config for mmengine's Runner."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODEL_WRAPPERS, RUNNERS
from mmengine.runner import Runner

from mlp_backbones.engine import launch


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm', 'mpi'])
def test_a_launcher_that_started_nothing_is_named(launcher, monkeypatch):
    for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_LOCAL_RANK'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=f'--launcher {launcher} is for processes'):
        launch.prepare_launcher(Config(dict(launcher=launcher)))


def test_a_launcher_without_the_gpus_that_it_needs_is_named(monkeypatch):
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('SLURM_PROCID', '0')
    monkeypatch.setenv('LOCAL_RANK', '1')
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    with pytest.raises(ValueError, match='--launcher slurm needs GPUs.*dist_train.sh'):
        launch.prepare_launcher(Config(dict(launcher='slurm')))
    monkeypatch.setattr(launch, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    with pytest.raises(ValueError, match='2 or more processes on a machine with 1 GPU'):
        launch.prepare_launcher(Config(dict(launcher='pytorch')))


def test_a_config_that_is_no_python_is_named_with_its_line(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text('model = dict(\n')
    with pytest.raises(ValueError, match='one of its bases, is not valid Python: .*line 1'):
        launch.load_config(path)


def test_an_option_without_a_value_is_named(capsys):
    with pytest.raises(SystemExit):
        launch.argument_parser('').parse_args(['x.py', '--cfg-options', 'a=1', 'b'])
    assert "'b' is not KEY=VALUE" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason='a GPU is used then')
def test_on_the_cpu_gloo_and_bn_replace_nccl_and_sync_bn(monkeypatch, tmp_path):
    for name, value in dict(RANK=0, WORLD_SIZE=1, LOCAL_RANK=0).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
    monkeypatch.setenv('MASTER_PORT', '0')
    cfg = Config(dict(launcher='pytorch', env_cfg=dict(dist_cfg=dict(backend='nccl'))))
    try:
        launch.prepare_launcher(cfg)
        assert torch.distributed.get_backend() == 'gloo'
        model = torch.nn.Sequential(torch.nn.SyncBatchNorm(2))
        made_by_mmengine = dict(module=model, device_ids=[0])
        wrapped = MODEL_WRAPPERS.build(cfg.model_wrapper_cfg, default_args=made_by_mmengine)
        x = torch.rand(4, 2, 3, 3)
        assert wrapped(x).mean((0, 2, 3)).abs().max() < 1e-6
    finally:
        torch.distributed.destroy_process_group()
    assert cfg.env_cfg.dist_cfg.backend == 'gloo'


def test_a_config_names_its_runner(tmp_path):
    class OwnRunner(Runner):
        def train(self):
            (tmp_path / 'trained').touch()

    cfg = Config(dict(model=dict(type='BaseDataPreprocessor'), runner_type='OwnRunner'))
    cfg.work_dir = str(tmp_path)
    RUNNERS.register_module(module=OwnRunner)
    try:
        launch.run('train', lambda args: cfg, None)
    finally:
        RUNNERS.module_dict.pop('OwnRunner')
    assert (tmp_path / 'trained').exists()
