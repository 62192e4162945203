"""tools/train.py on a folder, and then on the config that this leaves."""

import subprocess
import sys
from pathlib import Path

import torch
from in_process import run_tool

ROOT = Path(__file__).resolve().parents[2]


def train_twice(monkeypatch, config, folder):
    """What the first prints, and the classes in the checkpoint of the second."""
    path = ROOT / 'configs' / config
    options = ['--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1']
    command = [sys.executable, ROOT / 'tools/train.py', path, '--data', folder]
    first = subprocess.run(
        [*command, '--work-dir', folder / 'run', *options], capture_output=True, text=True
    )
    assert first.returncode == 0, first.stderr[-2000:]
    # this process knows nothing of the first
    assert not run_tool(
        monkeypatch, 'train.py', folder / 'run' / path.name, '--work-dir', folder / 'again'
    )
    state = torch.load(folder / 'again/epoch_1.pth', weights_only=False)
    return first.stdout, state['meta']['dataset_meta']['classes']
