"""Training in bfloat16, on any device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from torch import nn

from ..registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """mmengine's ``OptimWrapper`` with the forward pass under bfloat16 autocast.

    The weights and the optimizer stay in float32, and bfloat16 has the range of float32, so that
    no loss is scaled. mmengine's ``AmpOptimWrapper`` refuses CPUs, of which some are twice as
    fast in bfloat16 and others slower: docs/weights.md says how to find out. mmcv's RoIAlign has
    no bfloat16 kernel for CPUs.

    Arguments: see mmengine's ``OptimWrapper``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), torch.autocast(get_device(), torch.bfloat16):
            yield
