"""Trainings of several processes that are killed, stopped and started again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import toy_training as toy
from in_process import run_tool
from ports import free_port

from mlp_backbones.engine.training_start import find_newest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


class Run:
    """tools/dist_train.sh with a training of milliseconds."""

    def __init__(self, config, work_dir, *arguments, ranks=2, port=None, **environment):
        work_dir.mkdir(exist_ok=True)
        self.log = work_dir / f'log_{time.time_ns()}.txt'
        environment = dict(
            os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT / 'tests'),
            PYTHON=sys.executable, PORT=port or free_port(), **environment
        )  # fmt: skip
        command = ['tools/dist_train.sh', config, ranks, '--work-dir', work_dir, *arguments]
        with open(self.log, 'w') as log:
            self.process = subprocess.Popen(
                list(map(str, command)), cwd=ROOT, stdout=log, stderr=log, env=environment
            )

    def wait_for(self, text):
        ended = False
        while text not in self.log.read_text():
            assert not ended, self.log.read_text()[-3000:]
            ended = self.process.poll() is not None
            time.sleep(0.02)

    def workers(self):
        return children(self.process.pid)

    def end(self):
        return self.process.wait(120)


def children(pid):
    found = []
    for task in Path(f'/proc/{pid}/task').glob('*/children'):
        found += map(int, task.read_text().split())
    return found


def running(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().split()[2] != 'Z'
    except FileNotFoundError:
        return False


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    cfg = toy.config('unused', log_level='INFO')
    cfg.pop('work_dir')
    cfg.custom_imports = dict(imports=['toy_training'])
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.checkpoint.resume_interval = 2
    cfg.train_dataloader.update(batch_size=2, drop_last=True)
    # iterations that a signal can be sent between
    cfg.custom_hooks.append(dict(type='Pause', seconds=0.15))
    path = tmp_path_factory.mktemp('config') / 'toy.py'
    cfg.dump(path)
    return path


@pytest.fixture(scope='module')
def whole(config, tmp_path_factory):
    """A training of two processes that nothing happened to."""
    folder = tmp_path_factory.mktemp('whole')
    assert Run(config, folder).end() == 0
    return folder


def same(a, b):
    states = [torch.load(folder / 'epoch_4.pth', weights_only=False) for folder in (a, b)]
    keys = ('state_dict', 'ema_state_dict')
    return all(toy.equal(*(state[key].values() for state in states)) for key in keys)


def test_two_processes_save_and_leave(config, tmp_path):
    rarely = ['train_cfg.max_epochs=1000', 'train_cfg.val_interval=1000']
    rarely += ['default_hooks.checkpoint.interval=1000']  # so that it is resume.pth that is newest
    run = Run(config, tmp_path, '--cfg-options', *rarely)
    run.wait_for('[2][2/3]')
    run.process.send_signal(signal.SIGUSR1)  # which would kill torchrun itself
    assert run.end() == 75, run.log.read_text()[-3000:]
    assert find_newest([tmp_path]) == str(tmp_path / 'resume.pth')


def test_a_killed_torchrun_leaves_nothing_behind(config, tmp_path):
    run = Run(config, tmp_path, ranks=1)
    run.wait_for('[1][3/7]')
    workers = run.workers()
    assert len(workers) == 1
    run.process.kill()
    run.end()
    end = time.monotonic() + 20
    while any(map(running, workers)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(running, workers))
    assert (tmp_path / 'resume.pth').exists()


def test_a_run_that_hangs_ends_and_names_who_is_waited_for(config, tmp_path):
    options = ['env_cfg.dist_cfg.timeout=10', 'train_cfg.max_epochs=1000']
    run = Run(config, tmp_path, '--cfg-options', *options)
    run.wait_for('[1][2/3]')
    stopped = run.workers()[1]
    os.kill(stopped, signal.SIGSTOP)
    run.wait_for('Waited for:')
    text = run.log.read_text()
    assert f'rank 1 (pid {stopped}' in text and 'does not run any more' in text
    os.kill(stopped, signal.SIGCONT)  # or torchrun takes half a minute to kill it
    assert run.end() != 0


def test_two_machines(config, whole, tmp_path):
    """As two agents of torchrun on one; the second loses its process. All are started again, and
    go on from this run's checkpoint, not from one that lay there before.
    """
    shutil.copy(whole / 'epoch_4.pth', tmp_path)
    both = dict(ranks=1, port=free_port(), NNODES='2', LOCAL_ADDR='127.0.0.1', MAX_RESTARTS='2')
    runs = [Run(config, tmp_path, NODE_RANK=str(rank), **both) for rank in range(2)]
    while not any('[1][3/3]' in run.log.read_text() for run in runs):
        assert all(run.process.poll() is None for run in runs)
        time.sleep(0.02)
    os.kill(runs[1].workers()[0], signal.SIGKILL)
    assert [run.end() for run in runs] == [0, 0]
    assert any('resumed epoch: ' in run.log.read_text() for run in runs)
    assert same(tmp_path, whole)


def test_two_processes_equal_one_with_the_double_batch(tmp_path, monkeypatch):
    """Real parts: a segmentor, flips, and validation images that two processes cannot share."""
    sizes = ['--train', '16', '--val', '7', '--size', '64']
    assert not run_tool(monkeypatch, 'make_demo_data.py', tmp_path / 'data', *sizes)
    config = ROOT / 'configs/demo/gmlp_upernet.py'
    norm = dict(type='GN', num_groups=4)  # the statistics of a BN are of one process
    options = ['--cfg-options', f'data_root={tmp_path}/data', 'train_cfg.max_epochs=1']
    options += ['train_cfg.val_interval=1', 'optim_wrapper.optimizer.lr=1e-4']
    options += [f'model.decode_head.norm_cfg.{key}={value}' for key, value in norm.items()]
    states, metrics = [], []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        size = f'train_dataloader.batch_size={4 // ranks}'
        if ranks == 1:
            assert not run_tool(
                monkeypatch, 'train.py', config, '--work-dir', folder, *options, size
            )
        else:
            assert Run(config, folder, *options, size).end() == 0
        states.append(torch.load(folder / 'epoch_1.pth', weights_only=False)['state_dict'])
        (scalars,) = folder.glob('*/vis_data/scalars.json')
        rows = [json.loads(line) for line in scalars.read_text().splitlines()]
        metrics.append(next(row for row in rows if 'mIoU' in row))
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, atol=1e-5, rtol=1e-5)
    for name in ('mIoU', 'aAcc', 'mAcc'):
        assert metrics[0][name] == metrics[1][name]
