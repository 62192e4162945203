"""A training of milliseconds by mmengine's real Runner, with every kind of randomness in it."""

import multiprocessing
import os
import random
import signal
import time

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from mmengine.runner import FlexibleRunner, Runner
from torch import nn

from mlp_backbones.checkpoints import safe_loading

IMAGES = 14


@DATASETS.register_module()
class Noise(BaseDataset):
    """Numbers, with noise by Python, numpy and torch; NaN in those that are ``broken``, and one
    that is ``deadly``.
    """

    def __init__(self, broken=(), deadly=None, **kwargs):
        self.broken, self.deadly = broken, deadly
        super().__init__(**kwargs)

    def load_data_list(self):
        return [dict(index=i) for i in range(IMAGES)]

    def prepare_data(self, idx):
        if idx == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        noise = random.random() + np.random.rand() + torch.rand(1).item()
        inputs = torch.sin(torch.arange(8.0) * (idx + 1) + noise)
        inputs[0] = float('nan') if idx in self.broken else inputs[0]
        label = torch.tensor(idx % 3)
        label.img_path = f'image_{idx}.jpg'
        return dict(inputs=inputs, data_samples=label)


@MODELS.register_module()
class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)
        )

    def forward(self, inputs, data_samples=None, mode='tensor'):
        outputs = self.layers(torch.stack(list(inputs)))
        if mode == 'loss':
            labels = torch.stack(list(data_samples))
            return dict(loss=nn.functional.cross_entropy(outputs, labels))
        return list(outputs)


@METRICS.register_module()
class Mean(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.extend(float(x.mean()) for x in data_samples)

    def compute_metrics(self, results):
        return dict(acc=float(np.mean(results)))


@HOOKS.register_module()
class Kill(Hook):
    """Sends a signal to its own process before an iteration, or within an evaluation."""

    def __init__(self, at, number, evaluating=False):
        self.at, self.number, self.evaluating = at, number, evaluating

    def before_train_iter(self, runner, **kwargs):
        if runner.iter == self.at and not self.evaluating:
            os.kill(os.getpid(), self.number)

    def after_val_iter(self, runner, **kwargs):
        if runner.iter >= self.at and self.evaluating:
            os.kill(os.getpid(), self.number)


@HOOKS.register_module()
class Pause(Hook):
    def __init__(self, seconds):
        self.seconds = seconds

    def before_train_iter(self, runner, **kwargs):
        time.sleep(self.seconds)


def config(work_dir, by_epoch=True, workers=0, kill=None, **changes):
    loader = dict(
        batch_size=4,
        num_workers=workers,
        dataset=dict(type='Noise'),
        sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True),
        collate_fn=dict(type='pseudo_collate'),
    )
    length = dict(max_epochs=4) if by_epoch else dict(max_iters=16)
    cfg = Config(
        dict(
            default_scope='mmengine',
            model=dict(type='Toy'),
            work_dir=str(work_dir),
            train_dataloader=loader,
            train_cfg=dict(by_epoch=by_epoch, val_interval=2 if by_epoch else 8, **length),
            optim_wrapper=dict(
                optimizer=dict(type='AdamW', lr=0.01), clip_grad=dict(max_norm=1.0)
            ),
            param_scheduler=dict(type='CosineAnnealingLR', T_max=16, by_epoch=False),
            val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
            val_evaluator=dict(type='Mean'),
            val_cfg=dict(),
            custom_hooks=[dict(type='EMAHook', momentum=0.1)],
            default_hooks=dict(
                checkpoint=dict(
                    type='mlp_backbones.SafeCheckpointHook',
                    by_epoch=by_epoch,
                    interval=1 if by_epoch else 4,
                    max_keep_ckpts=1,
                    save_best='acc',
                ),
                logger=dict(type='LoggerHook', interval=1000),
            ),
            randomness=dict(seed=3),
            log_level='ERROR',
        ),
        format_python_code=False,  # for each checkpoint, half of the time
    )
    cfg.merge_from_dict(changes)
    if kill:
        cfg.custom_hooks.append(dict(type='Kill', **kill))
    return cfg


def train(work_dir, **changes):
    """Train in this process; the final weights, average included, and the optimizer's state."""
    cfg = config(work_dir, experiment_name=os.urandom(8).hex(), **changes)
    runner = (FlexibleRunner if 'strategy' in cfg else Runner).from_cfg(cfg)
    with safe_loading():  # as tools/train.py
        runner.train()
    averages = [hook.ema_model for hook in runner._hooks if isinstance(hook, EMAHook)]
    tensors = [x for model in (runner.model, *averages) for x in model.state_dict().values()]
    state = runner.optim_wrapper.optimizer.state
    for group in runner.optim_wrapper.optimizer.param_groups:
        for parameter in group['params']:
            tensors += [state[parameter]['exp_avg'], state[parameter]['exp_avg_sq']]
    return [tensor.clone() for tensor in tensors]


def in_child(function, *args, **kwargs):
    """The exit code of a forked process that calls ``function``."""

    def call():
        with open(os.devnull, 'w') as silence:
            os.dup2(silence.fileno(), 1)
            os.dup2(silence.fileno(), 2)
        function(*args, **kwargs)

    child = multiprocessing.get_context('fork').Process(target=call)
    child.start()
    child.join()  # a timeout would wait for its workers, too
    return child.exitcode


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
