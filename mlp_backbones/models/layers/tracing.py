"""What kind of call this is: eager, or one that is recorded or transformed.

The only place that deals with differences between versions of torch.
"""

import torch
from torch import Tensor, nn

# torch 2.1 has it in _dynamo alone
is_compiling = getattr(torch.compiler, 'is_compiling', None) or torch._dynamo.is_compiling
try:
    from torch.fx.experimental.symbolic_shapes import has_static_value, statically_known_true
except ImportError:  # before torch 2.7, whose compiler makes a graph for each answer

    def statically_known_true(x: bool) -> bool:
        return x

    def has_static_value(n: int) -> bool:
        return False


def is_recording() -> bool:
    """Whether torch.compile, torch.export or torch.jit.trace records this call."""
    return is_compiling() or torch.jit.is_tracing()


def is_plain(x: Tensor) -> bool:
    """Whether ``x`` is an ordinary tensor, with values: not fake, not inside a transform."""
    in_transform = torch._C._functorch.peek_interpreter_stack() is not None
    return type(x) in (Tensor, nn.Parameter) and not in_transform


def is_zero(n: int) -> bool:
    """Whether a length is known to be 0; in a program recorded for any length it is not."""
    if not is_compiling():
        return not isinstance(n, Tensor) and n == 0
    return statically_known_true(n == 0)


def is_constant(n: int | Tensor) -> bool:
    """Whether a length is the same in every call of what is recorded."""
    return not isinstance(n, Tensor) and (not is_compiling() or has_static_value(n))
