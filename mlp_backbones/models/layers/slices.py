"""Large maps on a CPU, in slices that stay in its cache: for inference without gradients.

What a block makes of a large map inside, several times wider than the map, is written to memory
and read back, which on a CPU costs more than the matrix products. So a large map goes through in
slices. Nothing else is done so: not training, no other device, no program that is recorded, and
no module that somebody has changed or listens to.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .affine import Affine, LayerScale
from .region import Region
from .tracing import is_recording

SLICE = 2**21  # numbers in the widest tensor of a slice: 8 MiB in float32


def by_tokens(module: nn.Module, f: Callable[[Tensor], Tensor], x: Tensor, width: int) -> Tensor:
    """``f(x)``, tokens (..., C) each by itself.

    Args:
        module: Holds the weights in f, which is one of its methods.
        f: A function of tokens.
        x: Tokens (..., C).
        width: Channels of the widest tensor in f.
    """
    if not is_sliced(module, x, width):
        return f(x)
    slices = x.flatten(0, -2).split(max(SLICE // width, 1))
    return torch.cat([f(s) for s in slices]).unflatten(0, x.shape[:-1])


def by_bands(block: nn.Module, x: Tensor, region: Region, rows: int) -> Tensor:
    """``block(x, region)`` for a block that mixes tokens within bands of ``rows`` rows alone.

    Args:
        block: A block on tokens (B, H, W, C).
        x: Tokens (B, H, W, C).
        region: Where the images lie on x.
        rows: Height of a band; the last one may be lower.
    """
    widths = [m.out_features for m in block.modules() if isinstance(m, nn.Linear)]
    width = max(widths, default=x.shape[-1])
    ours = type(block).__module__.partition('.')[0] == __package__.partition('.')[0]
    if not ours or not is_sliced(block, x, width):
        return block(x, region)
    height = x.shape[1]
    rows *= max(SLICE // (width * x.shape[2] * rows), 1)
    images = [
        torch.cat(
            [
                block(x[i : i + 1, top : top + rows], region.rows(i, top, top + rows))
                for top in range(0, height, rows)
            ],
            1,
        )
        for i in range(x.shape[0])
    ]
    return torch.cat(images)


def is_sliced(module: nn.Module, x: Tensor, width: int) -> bool:
    """Whether tokens (..., C), of which ``module`` makes some ``width`` wide, go in slices."""
    if is_recording() or torch.is_grad_enabled() or module.training or x.device.type != 'cpu':
        return False
    return x[..., 0].numel() * width > 2 * SLICE and all(map(is_token_wise, module.modules()))


def is_token_wise(m: nn.Module) -> bool:
    """Whether nobody listens to ``m`` and its weights, if any, work on each token by itself."""
    if m._forward_hooks or m._forward_pre_hooks:
        return False
    is_leaf_with_weights = not any(m.children()) and any(True for _ in m.parameters())
    tokenwise = type(m).__module__.startswith(('torch.nn.modules', __package__))
    return not is_leaf_with_weights or tokenwise and isinstance(m, TOKENWISE)


TOKENWISE = (nn.Linear, nn.LayerNorm, Affine, LayerScale)
