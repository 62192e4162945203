"""The spatial shift of S2-MLP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .region import Region

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

    def forward(self, x: Tensor, region: Region | None = None) -> Tensor:
        """Tokens (B, H, W, C) -> (B, H, W, C); the border is that of each image."""
        groups = x.tensor_split(len(self.steps), -1)
        return torch.cat(
            [
                keep_edge(shift(group, *step), group, step, region)
                for step, group in zip(self.steps, groups, strict=True)
            ],
            -1,
        )

    def extra_repr(self) -> str:
        return f'steps={self.steps}'


def shift(x: Tensor, rows: int, columns: int) -> Tensor:
    """Token (i - rows, j - columns) at (i, j), and where there is none the token itself."""
    kept, moved, source = split(x, rows, 1)
    if columns:
        kept_columns, _, _ = split(moved, columns, 2)
        _, _, source = split(source, columns, 2)
        source = join(kept_columns, source, columns, 2)
    return join(kept, source, rows, 1)


def split(x: Tensor, step: int, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """What an axis keeps at a step, what it moves to, and what it moves there."""
    n, d = x.shape[axis], abs(step)
    if step == 0:
        return x[:0], x, x
    if d > 1 and not isinstance(n, Tensor):
        d = min(d, n)
    low, high = x.narrow(axis, 0, d), x.narrow(axis, n - d, d)
    first, last = x.narrow(axis, 0, n - d), x.narrow(axis, d, n - d)
    return (low, last, first) if step > 0 else (high, first, last)


def join(kept: Tensor, moved: Tensor, step: int, axis: int) -> Tensor:
    if step == 0:
        return moved
    return torch.cat([kept, moved] if step > 0 else [moved, kept], axis)


def keep_edge(moved: Tensor, x: Tensor, step: tuple[int, int], region: Region | None) -> Tensor:
    """``moved`` by ``step``, and x where it came from beyond the bottom or right of an image."""
    if region is None or region.sizes is None:
        return moved
    inside = None
    for axis in (0, 1):
        if step[axis] < 0:
            shape = [1, 1, 1]
            shape[axis] = -1
            i = torch.arange(region.size[axis], device=x.device).view(shape)
            below = i - step[axis] < region.sizes[:, axis, None, None, None]
            inside = below if inside is None else inside & below
    return moved if inside is None else torch.where(inside, moved, x)
