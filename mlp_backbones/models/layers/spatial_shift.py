"""The spatial shift of S2-MLP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .canvas import Canvas

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

    def forward(self, x: Tensor, canvas: Canvas | None = None) -> Tensor:
        """Tokens (B, H, W, C) -> (B, H, W, C); the border is that of each image."""
        _, h, w, _ = x.shape
        i = torch.arange(h, device=x.device)[:, None, None]
        j = torch.arange(w, device=x.device)[:, None]
        if canvas is not None:
            h, w = canvas.sizes[:, :, None, None, None].unbind(1)  # (B, 1, 1, 1)
        moved = []
        for (di, dj), group in zip(self.steps, x.tensor_split(len(self.steps), -1), strict=True):
            inside = [reads_inside(*axis) for axis in ((i, di, h), (j, dj, w)) if axis[1]]
            inside = inside[0] & inside[1] if len(inside) > 1 else inside[0]
            moved.append(torch.where(inside, group.roll((di, dj), (1, 2)), group))
        return torch.cat(moved, -1)

    def extra_repr(self) -> str:
        return f'steps={self.steps}'


def reads_inside(i: Tensor, step: int, n: int | Tensor) -> Tensor:
    """Whether position i - step lies on an axis of length n, for the positions i on it."""
    return i >= step if step > 0 else i < n + step
