"""What runs in another way on a CPU, in inference without gradients.

The tensors inside a block are several times as wide as its map. Those of a large map are written
to memory and read back, which on a CPU costs more than the matrix products. So a large map goes
through in slices that stay in its cache. And a shift of a few channels, which as copies would move
their values one by one, runs as the convolution that it equals. Nothing else does: not training,
no other device, no recorded program, and no module that has been changed or has a hook.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .affine import Affine, LayerScale
from .region import Region
from .tracing import is_plain, is_recording

HAS_ONEDNN = torch.backends.mkldnn.is_available()
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


def by_bands(block: nn.Module, x: Tensor, region: Region, rows: int, reach: int = 0) -> Tensor:
    """``block(x, region)`` for a block that mixes tokens within bands of ``rows`` rows alone.

    Args:
        block: A block on tokens (B, H, W, C).
        x: Tokens (B, H, W, C).
        region: Where the images lie on x.
        rows: Height of a band; the last one may be lower.
        reach: How many rows beyond its band a token takes from. They are computed twice.
    """
    widths = [m.out_features for m in block.modules() if isinstance(m, nn.Linear)]
    width = max(widths, default=x.shape[-1])
    ours = type(block).__module__.partition('.')[0] == __package__.partition('.')[0]
    if not ours or not is_sliced(block, x, width):
        return block(x, region)
    height = x.shape[1]
    rows *= max(SLICE // (width * x.shape[2] * rows), 1)

    def band(image: int, top: int) -> Tensor:
        first, last = max(top - reach, 0), top + rows + reach
        y = block(x[image : image + 1, first:last], region.rows(image, first, last))
        return y[:, top - first : top - first + rows]

    images = [
        torch.cat([band(i, top) for top in range(0, height, rows)], 1) for i in range(x.shape[0])
    ]
    return torch.cat(images)


def by_convolution(x: Tensor, steps: Sequence[tuple[int, int]], group_dim: int) -> Tensor:
    """Tokens (B, H, W, C) of which groups of channels move by ``steps`` of one token at most."""
    kernel = one_hot_kernel(x.shape[-1], tuple(steps), group_dim)
    maps = F.conv2d(x.permute(0, 3, 1, 2), kernel, padding=1, groups=x.shape[-1])
    return maps.permute(0, 2, 3, 1)


@lru_cache(64)
def one_hot_kernel(channels: int, steps: tuple[tuple[int, int], ...], group_dim: int) -> Tensor:
    """(C, 1, 3, 3); channels of no group stay where they are."""
    kernel = torch.zeros(channels, 1, 3, 3)
    kernel[len(steps) * group_dim :, :, 1, 1] = 1
    for n, (i, j) in enumerate(steps):
        kernel[n * group_dim : (n + 1) * group_dim, :, 1 - i, 1 - j] = 1
    return kernel


def is_cpu_inference(module: nn.Module, x: Tensor) -> bool:
    """Whether this call of ``module`` is one that this file is for."""
    on_cpu = x.device.type == 'cpu' and is_plain(x)
    return on_cpu and not (is_recording() or torch.is_grad_enabled() or module.training)


def is_convolved(module: nn.Module, x: Tensor) -> bool:
    """Whether ``module`` shifts x by a convolution: where oneDNN has a fast one, in float32."""
    return is_cpu_inference(module, x) and HAS_ONEDNN and x.dtype == torch.float32


def is_sliced(module: nn.Module, x: Tensor, width: int) -> bool:
    """Whether tokens (..., C), of which ``module`` makes some ``width`` wide, go in slices."""
    if not is_cpu_inference(module, x):
        return False
    return x[..., 0].numel() * width > 2 * SLICE and all(map(is_token_wise, module.modules()))


def is_token_wise(m: nn.Module) -> bool:
    """Whether ``m`` has no hooks, and its weights, if any, work on each token by itself."""
    if m._forward_hooks or m._forward_pre_hooks:
        return False
    if isinstance(m, _BatchNorm):  # with the statistics of the map at hand it is not
        return not m.training and m.running_mean is not None
    is_leaf_with_weights = not any(m.children()) and any(True for _ in m.parameters())
    tokenwise = type(m).__module__.startswith(('torch.nn.modules', __package__))
    return not is_leaf_with_weights or tokenwise and isinstance(m, TOKENWISE)


TOKENWISE = (nn.Linear, nn.LayerNorm, Affine, LayerScale)
