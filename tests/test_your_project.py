"""docs/your_project.md: its configs, and every row of its table on two processes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import metafiles  # noqa: F401
import pytest
import torch
from in_process import run_tool
from mmengine.config import Config
from mmengine.dist import all_reduce
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from ports import free_port

from mlp_backbones.engine import launch

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / 'docs/your_project.md').read_text()
ROWS = re.findall(r'^\| ([^|]+) \| `(mm\w+::\S+)` \| `(.*?)` \| `(.*?)` \|$', TEXT, re.M)
# The quick ones; the others were run by leaving this out.
RUN = ('FCOS', 'TOOD', 'CondInst', 'RTMDet', 'DINO', 'PSPNet')
# Images of 128 x 128 have fewer than 900 tokens; and less for a CPU to do.
CHANGES = {
    'DINO': {
        'model.num_queries': 50,
        'model.encoder.num_layers': 1,
        'model.decoder.num_layers': 2,
    },
    'PSPNet': {
        'model.decode_head.channels': 32,
        'model.auxiliary_head.channels': 32,
        'model.data_preprocessor.size': (128, 128),
    },
}


def test_its_configs_build(tmp_path):
    configs = re.findall(r'```python\n(_base_ = .*?)```', TEXT, re.S)
    assert len(configs) == 3
    for text in configs:
        (tmp_path / 'mine.py').write_text(text)
        cfg = launch.load_config(tmp_path / 'mine.py')
        assert cfg.optim_wrapper.optimizer.type == 'AdamW'
        assert cfg.optim_wrapper.clip_grad.max_norm == 5.0
        init_default_scope(cfg.default_scope)
        with torch.device('meta'):
            model = MODELS.build(cfg.model)
        assert type(model.backbone).__module__.startswith('mlp_backbones.')


def config_of(row, folder):
    """A user's config of this row with a nano backbone, on the demo's images."""
    name, base, out_indices, change = row
    task, preprocessor = (
        ('maskrcnn', 'DetDataPreprocessor')
        if base.startswith('mmdet')
        else ('upernet', 'SegDataPreProcessor')
    )
    change = re.sub(r'\b(96|192|384|768)\b', lambda m: str(int(m[1]) // 3), change)
    path = folder / 'mine.py'
    path.write_text(
        f"_base_ = '{base}'\n"
        f"model = dict(data_preprocessor=dict(type='mlp_backbones.{preprocessor}'),\n"
        "    backbone=dict(_delete_=True, type='mlp_backbones.GMLP', arch='nano',\n"
        f'    out_indices={out_indices}), {change})\n'
    )
    given = launch.load_config(path)
    cfg = launch.load_config(
        ROOT / f'configs/demo/gmlp_{task}.py', {'data_root': str(folder / 'data/demo')}
    )
    hooks = given.get('custom_hooks', [])
    cfg.model = given.model
    cfg.custom_hooks = [hook for hook in hooks if hook.type in ('SetEpochInfoHook', 'EMAHook')]
    cfg.merge_from_dict(CHANGES.get(name, {}))
    cfg.optim_wrapper = Config.fromfile(
        ROOT / 'configs/_base_/schedules/adamw_1x.py'
    ).optim_wrapper
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=2)
    cfg.default_hooks.checkpoint = None
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    if task == 'maskrcnn' and name not in ('Mask R-CNN', 'CondInst'):
        cfg.train_dataloader.dataset.pipeline[1].with_mask = False
    cfg.train_dataloader.update(batch_size=2, sampler=dict(type='InfiniteSampler'))
    cfg.param_scheduler, cfg.log_level = [], 'ERROR'
    cfg.work_dir, cfg.experiment_name = str(folder / 'run'), name.replace(' ', '_')
    return cfg


def on_rank(rank, folder, cfgs, ports):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
    os.environ.update(MASTER_ADDR='127.0.0.1', CUDA_VISIBLE_DEVICES='')
    failed = {}
    for (name, cfg), port in zip(cfgs.items(), ports, strict=True):
        os.environ['MASTER_PORT'] = port
        cfg.launcher = 'pytorch'
        try:
            launch.prepare_launcher(cfg)
            runner = Runner.from_cfg(cfg)
            runner.train()
            weight = runner.model.module.backbone.patch_embed.proj.weight.detach()
            mean = weight.clone()
            all_reduce(mean, 'mean')
            if not torch.allclose(mean, weight, atol=1e-6):  # NaN is not, either
                failed[name] = 'the two processes have other weights'
        except Exception as error:
            failed[name] = f'{type(error).__name__}: {error}'
        launch.leave_process_group()
    Path(folder, f'failed{rank}.json').write_text(json.dumps(failed))


def train_all(folder):
    cfgs = {row[0]: config_of(row, Path(folder)) for row in ROWS if row[0] in RUN}
    ports = [free_port() for _ in cfgs]
    # forked, they need not import everything again
    torch.multiprocessing.start_processes(
        on_rank, (folder, cfgs, ports), nprocs=2, start_method='fork'
    )


@pytest.mark.slow
def test_the_models_of_its_table_train_on_two_processes(tmp_path, monkeypatch):
    """DistributedDataParallel stops in the second iteration if a parameter had no gradient."""
    assert {row[0] for row in ROWS} >= set(RUN) and len(ROWS) == 20
    data = tmp_path / 'data/demo'
    assert not run_tool(monkeypatch, 'make_demo_data.py', data, '--train', '8', '--val', '2')
    # afresh: another test of this process may have put timm's torchvision on the path
    run = subprocess.run([sys.executable, __file__, tmp_path], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    for rank in range(2):
        assert json.loads((tmp_path / f'failed{rank}.json').read_text()) == {}


if __name__ == '__main__':
    train_all(sys.argv[1])
