"""The spatial shift of S2-MLP."""

import torch
from torch import Tensor, nn
from torch.autograd import Function

from .slices import is_transformed

# (row, column) steps of the channel groups: width, then height, then the diagonals.
DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))


class SpatialShift(nn.Module):
    """Each group of channels moves one step in a direction of its own.

    S2-MLP, sec. 3.2: four groups go +1 and -1 along the width and +1 and -1 along the
    height. Tokens that would come from beyond the border keep their own value. The
    paper's pseudo-code writes in place, where a slice overwrites what the next one
    reads; this reads from the input.

    Args:
        directions: 4, or 8 with the diagonals.
        distance: Length of a step, in tokens.
    """

    def __init__(self, directions: int = 4, distance: int = 1):
        super().__init__()
        if directions not in (4, 8):
            raise ValueError(f'shift_directions={directions!r} must be 4 or 8.')
        if not isinstance(distance, int) or distance < 1:
            raise ValueError(f'shift_distance={distance!r} must be a positive integer.')
        self.steps = [(distance * i, distance * j) for i, j in DIRECTIONS[:directions]]

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, H, W, C) -> (B, H, W, C)."""
        if torch.is_grad_enabled() and not is_transformed():
            return _Shift.apply(x, self.steps)
        return _shift(x, self.steps)

    def extra_repr(self) -> str:
        return f'steps={self.steps}'


def _shift(x: Tensor, steps: list[tuple[int, int]]) -> Tensor:
    out = x.clone()
    for (target, source), group_out, group in _moves(out, x, steps):
        group_out[target] = group[source]
    return out


class _Shift(Function):
    """The shift with a backward pass of its own: autograd's copies the map at every slice."""

    @staticmethod
    def forward(ctx, x: Tensor, steps: list[tuple[int, int]]) -> Tensor:
        ctx.steps = steps
        return _shift(x, steps)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        out = grad.clone()
        for (target, source), group_out, group in _moves(out, grad, ctx.steps):
            group_out[target] = 0  # their own values were overwritten
            group_out[source] += group[target]
        return out, None


def _moves(out: Tensor, x: Tensor, steps: list[tuple[int, int]]):
    """For each group of channels that moves: where it is written and read, in views of both."""
    _, h, w, _ = x.shape
    views = (t.tensor_split(len(steps), -1) for t in (out, x))
    groups = zip(*views, steps, strict=True)
    for group_out, group, (i, j) in groups:
        if abs(i) < h and abs(j) < w:
            (to_i, from_i), (to_j, from_j) = _slices(i, h), _slices(j, w)
            whole = slice(None)
            yield ((whole, to_i, to_j), (whole, from_i, from_j)), group_out, group


def _slices(step: int, n: int) -> tuple[slice, slice]:
    """Where on an axis of length n a shift by ``step`` writes, and where it reads."""
    low, high = max(step, 0), n + min(step, 0)
    return slice(low, high), slice(low - step, high - step)
