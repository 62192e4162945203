"""What kind of call this is: eager, or under a compiler or a transform of torch."""

import torch
from torch import Tensor, nn


def is_compiling() -> bool:
    """Whether torch.compile or torch.export traces this call."""
    if hasattr(torch.compiler, 'is_compiling'):
        return torch.compiler.is_compiling()
    return torch._dynamo.is_compiling()  # torch 2.1


def is_dynamo() -> bool:
    """Whether torch.compile traces this call, where a symbolic size looks like a number."""
    if hasattr(torch.compiler, 'is_dynamo_compiling'):
        return torch.compiler.is_dynamo_compiling()
    return torch._dynamo.is_compiling()


def is_plain(x: Tensor) -> bool:
    """Whether ``x`` is an ordinary tensor, with values: not fake, not inside a transform."""
    in_transform = torch._C._functorch.peek_interpreter_stack() is not None
    return type(x) in (Tensor, nn.Parameter) and not in_transform


def is_zero(n: int) -> bool:
    """Whether a length is known to be 0: that of a symbol, or of a trace, may be so or not."""
    if not is_compiling():
        return type(n) is int and n == 0
    try:
        from torch.fx.experimental.symbolic_shapes import statically_known_true
    except ImportError:  # torch 2.1
        return n == 0
    return statically_known_true(n == 0)
