"""What is local on a map, in slices of the map that stay in the cache of a CPU.

The hidden layer of an MLP over the channels of a large map is written to memory and read
back several times over, which on a CPU costs more than its matrix products. So a large map
goes through such a function in slices, and a training step keeps only what goes in, and
computes the rest of a slice once more in the backward pass. Small maps and other devices take
the function as it is.

What is computed twice must give the same twice: no random numbers, no other weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

SLICE = 2**21  # numbers in the widest tensor of a slice: 8 MiB in float32


def is_transformed() -> bool:
    """Whether the call is compiled, traced or inside a transform of ``torch.func``, which want
    the plain operators.
    """
    tracing = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return tracing or torch._C._functorch.peek_interpreter_stack() is not None


def recompute(f: Callable[..., Tensor], *xs: Tensor) -> Tensor:
    """``f(*xs)``; a training step keeps ``xs`` and computes the rest in the backward pass again.

    For a pointwise function and the linear layer after it, whose input then needs no memory;
    its matrix product is not computed again. A compiler decides this for itself.

    Args:
        f: A method of the module that owns the weights in it.
        xs: The tensors that it is to be differentiated by, beside those weights.

    Raises:
        RuntimeError: in the backward pass, if the module has other weights by then.
    """
    if not torch.is_grad_enabled() or is_transformed():
        return f(*xs)
    module = f.__self__
    weights = list(module.parameters())

    def again(*xs: Tensor) -> Tensor:
        if any(a is not b for a, b in zip(weights, module.parameters(), strict=True)):
            raise RuntimeError(
                f'the weights of {type(module).__name__} are not those of the forward pass '
                '(torch.func.functional_call, parametrize); keep them in place until the '
                'backward pass is done, or differentiate with torch.func.'
            )
        return f(*xs)

    return checkpoint(again, *xs, use_reentrant=False, preserve_rng_state=False)


def by_token(f: Callable[..., Tensor], xs: Tensor | tuple[Tensor, ...], width: int) -> Tensor:
    """``f(*xs)`` for a function of each token by itself, such as an MLP over channels.

    Args:
        f: From tokens (..., C_i) to tokens, or to a tuple of such; see :func:`recompute`.
        xs: A map (..., C_i), or a tuple of maps of equal size.
        width: Channels of the widest tensor in ``f``.
    """
    xs = xs if isinstance(xs, tuple) else (xs,)
    step = _slice_tokens(xs[0], width)
    if step is None:
        return f(*xs)
    size = xs[0].shape[:-1]
    slices = zip(*(x.reshape(-1, x.shape[-1]).split(step) for x in xs), strict=True)
    outs = [recompute(f, *s) for s in slices]
    if isinstance(outs[0], tuple):
        return tuple(join(out).unflatten(0, size) for out in zip(*outs, strict=True))
    return join(outs).unflatten(0, size)


def by_band(f: Callable[[Tensor], Tensor], x: Tensor, width: int, rows: int) -> Tensor:
    """``f(x)`` for a function of each band of a map by itself.

    Args:
        f: From a map (B, H, W, C) to one of the same height; see :func:`recompute`.
        x: A map (B, H, W, C).
        width: Channels of the widest tensor in ``f``.
        rows: Height of a band; the last one may be lower.
    """
    step = _slice_tokens(x, width)
    if step is None:
        return f(x)
    bands = max(step // (x.shape[2] * rows), 1)
    images = [image.split(bands * rows, 1) for image in x.split(1)]
    return join([join([recompute(f, band) for band in image], 1) for image in images])


def _slice_tokens(x: Tensor, width: int) -> int | None:
    """The number of tokens in a slice, or None if there is nothing to gain."""
    if x.device.type != 'cpu' or is_transformed():
        return None
    slices = x[..., 0].numel() * width / SLICE
    worthwhile = 5 if torch.is_grad_enabled() else 2  # computing twice has a price
    return SLICE // width if slices > worthwhile else None


def join(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """``torch.cat``, without a copy where there is one part."""
    return torch.cat(parts, dim) if len(parts) > 1 else parts[0]
