"""tools/train.py on a folder, and then on the config that this leaves."""

import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def train(*arguments):
    """What it prints."""
    command = [sys.executable, ROOT / 'tools/train.py', *arguments]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout


def train_twice(config, folder):
    """What the first prints, and the classes in the checkpoint of the second."""
    path = ROOT / 'configs' / config
    options = ['--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1']
    printed = train(path, '--data', folder, '--work-dir', folder / 'run', *options)
    train(folder / 'run' / path.name, '--work-dir', folder / 'again')
    state = torch.load(folder / 'again/epoch_1.pth', weights_only=False)
    return printed, state['meta']['dataset_meta']['classes']
