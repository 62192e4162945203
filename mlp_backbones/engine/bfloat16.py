"""Training in bfloat16, on any device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from ..registry import OPTIM_WRAPPERS

# Of mmcv.ops, for which it has no bfloat16 kernels.
FLOAT32 = (
    'RoIAlign',
    'RoIPool',
    'DeformConv2d',
    'DeformConv2dPack',
    'ModulatedDeformConv2d',
    'ModulatedDeformConv2dPack',
)


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """mmengine's ``OptimWrapper`` with the forward pass under bfloat16 autocast.

    The weights and the optimizer stay in float32, and bfloat16 has the range of float32, so that
    no loss is scaled. mmengine's ``AmpOptimWrapper`` refuses CPUs, of which some are twice as
    fast in bfloat16 and others slower: docs/weights.md says how to find out. mmcv's RoIAlign,
    RoIPool, deformable convolutions and NMS have no bfloat16 kernels: they get float32, and so do
    the losses, whose heads give it.

    Arguments: see mmengine's ``OptimWrapper``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        handles = []
        for module in model.modules():
            # mmdet's extractors write what RoI layers give into a tensor of the input's type
            if type(module).__name__ in FLOAT32 or hasattr(module, 'roi_layers'):
                handles.append(module.register_forward_pre_hook(_float32_inputs))
            if hasattr(module, 'predict_by_feat') or hasattr(module, 'loss_by_feat'):  # a head
                handles.append(module.register_forward_hook(_float32_outputs))
        try:
            with super().optim_context(model), torch.autocast(get_device(), torch.bfloat16):
                yield
        finally:
            for handle in handles:
                handle.remove()


def _float32_inputs(module: nn.Module, inputs: tuple) -> tuple:
    return _float32(inputs)


def _float32_outputs(module: nn.Module, inputs: tuple, outputs: Any) -> Any:
    return _float32(outputs)


def _float32(x: Any) -> Any:
    if isinstance(x, Tensor) and x.is_floating_point():
        return x.float()
    return type(x)(map(_float32, x)) if type(x) in (list, tuple) else x
