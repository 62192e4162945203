"""Large maps on a CPU, in slices that stay in its cache.

What a block makes of a large map inside, several times wider than the map, is written to memory
and read back many times over, which on a CPU costs more than the matrix products. So the map
goes through in slices, and a training step keeps what goes into a slice and computes the rest
again in its backward pass. Small maps, other devices, compilers and transforms of torch take
the module as it is, and so does everything with ``MLP_BACKBONES_SLICES=0`` in the environment.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils.parametrize import is_parametrized
from torch.utils.checkpoint import checkpoint

from .affine import Affine
from .canvas import Canvas
from .tracing import is_compiling, is_plain

ENABLED = os.environ.get('MLP_BACKBONES_SLICES') != '0'
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
    return torch.cat([recompute(module, f, s) for s in slices]).unflatten(0, x.shape[:-1])


def by_bands(block: nn.Module, x: Tensor, canvas: Canvas | None, rows: int) -> Tensor:
    """``block(x, canvas)`` for a block that mixes tokens within bands of ``rows`` rows alone.

    Args:
        block: A block on tokens (B, H, W, C).
        x: Tokens (B, H, W, C).
        canvas: The images on x; None if they fill it.
        rows: Height of a band; the last one may be lower.
    """
    widths = [m.out_features for m in block.modules() if hasattr(m, 'out_features')]
    width = max(widths, default=x.shape[-1])
    if not is_sliced(block, x, width):
        return block(x, canvas)
    rows *= max(SLICE // (width * x.shape[2] * rows), 1)
    images = []
    for i, image in enumerate(x.split(1)):
        state = torch.get_rng_state()
        bands = []
        for top in range(0, x.shape[1], rows):
            torch.set_rng_state(state)  # a path that is dropped is so in all bands of an image
            crop = None if canvas is None else canvas.crop(i, top, rows)
            bands.append(recompute(block, block.__call__, image[:, top : top + rows], crop))
        images.append(torch.cat(bands, 1))
    return torch.cat(images)


def is_sliced(module: nn.Module, x: Tensor, width: int) -> bool:
    """Whether tokens (..., C), of which ``module`` makes some ``width`` wide, go in slices."""
    if not ENABLED or x.device.type != 'cpu' or is_compiling() or torch.jit.is_tracing():
        return False
    is_large = is_plain(x) and x[..., 0].numel() * width > 2 * SLICE
    return is_large and is_token_wise(module)


def is_token_wise(module: nn.Module) -> bool:
    """Whether all that ``module`` holds, which its user may have changed, works on each token
    by itself, and twice alike.
    """
    for m in module.modules():
        is_leaf_with_weights = not any(m.children()) and any(True for _ in m.parameters())
        if is_leaf_with_weights and not isinstance(m, (nn.Linear, nn.LayerNorm, Affine)):
            return False
        if is_parametrized(m) or isinstance(m, _DropoutNd) and m.training and m.p:
            return False
    return True


def recompute(module: nn.Module, f: Callable[..., Tensor], *args) -> Tensor:
    """``f(*args)``, a method of ``module``, computed again in the backward pass."""
    if not torch.is_grad_enabled():
        return f(*args)
    method = Method(module, f)
    weights = dict(method.named_parameters())  # those of now: functional_call lends others

    def again(*args):
        return functional_call(method, weights, args)

    return checkpoint(again, *args, use_reentrant=False)


class Method(nn.Module):
    """A method of a module, as a module."""

    def __init__(self, module: nn.Module, f: Callable[..., Tensor]):
        super().__init__()
        self.module = module
        self.method = f

    def forward(self, *args) -> Tensor:
        return self.method(*args)
