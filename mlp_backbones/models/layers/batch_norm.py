"""Batch norm, wherever it stands in a model: what is done to all of them at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """All batch norms in ``model``, of whatever make (mmcv's SyncBatchNorm is none of torch's)."""
    return [m for m in model.modules() if hasattr(m, 'running_mean')]


def norm_channels(norm: nn.Module, x: Tensor) -> Tensor:
    """A batch norm of maps (B, C, H, W), on tokens (B, H, W, C)."""
    return norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def set_norm_cfg(model: nn.Module, norm_cfg: dict) -> None:
    """Put the batch norm that ``norm_cfg`` describes in the place of every one in ``model``.

    Raises:
        ValueError: if it describes another norm than a batch norm of maps.
    """
    for parent in list(model.modules()):
        for name, old in parent.named_children():
            if isinstance(old, _BatchNorm):
                try:
                    _, new = build_norm_layer(norm_cfg, old.num_features)
                except (KeyError, TypeError, AssertionError) as error:
                    raise ValueError(f'norm_cfg={norm_cfg!r} cannot be built: {error}') from error
                if not isinstance(new, (nn.BatchNorm2d, nn.SyncBatchNorm)):
                    raise ValueError(
                        f"norm_cfg={norm_cfg!r} must be a batch norm of maps, type 'BN' or "
                        "'SyncBN'."
                    )
                with torch.no_grad():
                    if new.affine:
                        new.weight.copy_(old.weight)
                setattr(parent, name, new)


@contextlib.contextmanager
def keep_statistics(model: nn.Module) -> Iterator[None]:
    """Running statistics stay as they are: for a forward pass that was already made once."""
    norms = [m for m in batch_norms(model) if m.training and m.running_mean is not None]
    before = [(m.momentum, m.num_batches_tracked.clone()) for m in norms]
    for m in norms:
        m.momentum = 0.0
    try:
        yield
    finally:
        for m, (momentum, count) in zip(norms, before, strict=True):
            m.momentum = momentum
            m.num_batches_tracked.copy_(count)


def fold(layer: nn.Linear | nn.Conv2d, norm: nn.Module) -> nn.Linear | nn.Conv2d:
    """``norm(layer(x))`` as one layer, both in evaluation mode."""
    fuse = fuse_conv_bn_eval if isinstance(layer, nn.Conv2d) else fuse_linear_bn_eval
    return fuse(layer, norm)
