"""The loss on validation images, which tells over-fitting from a metric that is only slow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from copy import deepcopy

import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import DATASETS
from mmengine.runner import Runner, autocast
from torch.utils.data import Subset

from ..registry import HOOKS
from .config_check import walk


@HOOKS.register_module()
class ValLossHook(Hook):
    """Adds the loss on validation images to the metrics of each evaluation during training.

    ``val_loss`` is their sum as it is in training, ``val_loss_cls`` and so on are its parts. The
    weights are those that were evaluated (EMA's, with mmengine's EMAHook), in eval mode: without
    dropout, and with the statistics of batch norm that are used later. The images come as the
    evaluation has them, but their annotations are resized with them. Random choices of the loss
    are the same each time, and do not change those of the training.

    Args:
        max_images: How many images at most, spread evenly; they take about as long as the
            evaluation does for as many. Default: 500.
    """

    priority = 'HIGHEST'  # before EMA's weights are put back, and before metrics are logged

    def __init__(self, max_images: int = 500):
        if max_images < 1:
            raise ValueError(f'max_images={max_images} must be 1 or more')
        self.max_images = max_images
        self.loader = None

    def before_train(self, runner: Runner) -> None:
        """Raise what will go wrong before hours of training are lost."""
        loader = runner.cfg.get('val_dataloader')
        if runner.val_loop is None:
            return
        if not isinstance(loader, Mapping):
            raise ValueError('ValLossHook needs a Runner whose config has its val_dataloader')
        loader = deepcopy(dict(loader))
        config = loss_dataset(loader['dataset'], runner.cfg.train_dataloader)
        dataset = DATASETS.build(config)
        step = -(-len(dataset) // self.max_images)
        if step == 0:  # no image has an object
            return
        loader.update(
            dataset=Subset(dataset, range(0, len(dataset), step)),
            # each image once, however many processes there are
            sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
            persistent_workers=False,
        )
        self.loader = runner.build_dataloader(loader, seed=runner.seed)
        try:
            self.losses(runner, first=True)
        except Exception as error:
            raise RuntimeError(
                f'ValLossHook: {type(error).__name__} in the loss of a validation image; repair '
                'what it says, or leave this hook out of custom_hooks'
            ) from error

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if self.loader is not None and metrics is not None:
            metrics.update(self.losses(runner))

    def losses(self, runner: Runner, first: bool = False) -> dict[str, float]:
        """The means over all images, or the ``first`` batch's."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        preprocessor = model.data_preprocessor
        augments = getattr(preprocessor, 'batch_augments', None)
        was_training = model.training
        sums: Counter = Counter()
        model.eval()
        preprocessor.batch_augments = None
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        half = autocast(enabled=getattr(runner.val_loop, 'fp16', False))
        with torch.no_grad(), torch.random.fork_rng(devices), half:
            torch.manual_seed(0)
            for batch in self.loader:
                data = preprocessor(batch, True)
                count = len(data['data_samples'])
                _, parts = model.parse_losses(model(**data, mode='loss'))
                sums['images'] += count
                for name, value in parts.items():
                    if 'loss' in name:
                        sums[f'val_{name}'] += float(value) * count
                if first:
                    break
        preprocessor.batch_augments = augments
        model.train(was_training)
        total: Counter = Counter()
        for part in [sums] if first else all_gather_object(sums):  # some processes have no images
            total.update(part)
        images = total.pop('images', 0)
        return {name: value / images for name, value in total.items()}


def loss_dataset(dataset: Mapping, train_dataloader: Mapping) -> Mapping:
    """The validation data as training would take it: with its annotations, loaded before the image
    is resized, and without the images that it would leave out. Changes ``dataset``.
    """
    train = next(_with_pipelines(train_dataloader['dataset']))
    loads = [step for step in train['pipeline'] if _loads_annotations(step)]
    for part in _with_pipelines(dataset):
        rest = [step for step in part['pipeline'] if not _loads_annotations(step)]
        at = 1 + next(i for i, step in enumerate(rest) if 'Load' in str(step['type']))
        part.update(pipeline=rest[:at] + loads + rest[at:], test_mode=False)
        if 'filter_cfg' in train:
            part['filter_cfg'] = train['filter_cfg']
    return dataset


def _with_pipelines(dataset: Mapping) -> Iterator[Mapping]:
    """The data sets in one that load images: it, or those that it wraps."""
    for _, part in walk(dataset):
        if any('Load' in str(step['type']) for step in part.get('pipeline') or []):
            yield part


def _loads_annotations(step: Mapping) -> bool:
    kind = str(step['type'])
    return 'Load' in kind and 'Annotations' in kind
