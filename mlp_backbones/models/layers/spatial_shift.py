"""Spatial shifts: S2-MLP's, and one with zeros from beyond the border."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .region import Region, keep_valid
from .slices import by_convolution, is_convolved

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
                keep_edge(shift(group, group, step), group, step, region)
                for step, group in zip(self.steps, groups, strict=True)
            ],
            -1,
        )

    def extra_repr(self) -> str:
        return f'steps={self.steps}'


class ZeroPaddedShift(nn.Module):
    """Eight groups of channels move one token, in the order of DIRECTIONS, and the rest stays.

    What comes from beyond an image is zero, as in a convolution.

    Args:
        group_dim: Channels of each group.
    """

    def __init__(self, group_dim: int):
        super().__init__()
        self.group_dim = group_dim

    def forward(self, x: Tensor, region: Region | None = None) -> Tensor:
        """Tokens (B, H, W, C) -> (B, H, W, C)."""
        x, (h, w) = keep_valid(x, region), x.shape[1:3]
        if is_convolved(self, x):
            return by_convolution(x, DIRECTIONS, self.group_dim)
        groups, rest = x.tensor_split([len(DIRECTIONS) * self.group_dim], -1)
        groups = F.pad(groups, (0, 0, 1, 1, 1, 1)).chunk(len(DIRECTIONS), -1)
        moved = [
            group.narrow(1, 1 - i, h).narrow(2, 1 - j, w)
            for (i, j), group in zip(DIRECTIONS, groups, strict=True)
        ]
        return torch.cat([*moved, rest], -1)

    def extra_repr(self) -> str:
        return f'group_dim={self.group_dim}'


def shift(x: Tensor, source: Tensor, steps: tuple[int, ...], axis: int = 1) -> Tensor:
    """``source`` moved by ``steps`` along the axes from ``axis`` on, and x where nothing comes."""
    if not steps:
        return source
    step, *others = steps
    if step == 0:
        return shift(x, source, others, axis + 1)
    n, d = x.shape[axis], abs(step)
    if d > 1 and not isinstance(n, Tensor):  # of 1, a compiler need not ask
        d = min(d, n)
    here, there = (d, 0) if step > 0 else (0, d)  # where moved tokens come to, and come from
    moved = shift(x.narrow(axis, here, n - d), source.narrow(axis, there, n - d), others, axis + 1)
    parts = [x.narrow(axis, 0, d), moved] if step > 0 else [moved, x.narrow(axis, n - d, d)]
    return torch.cat(parts, axis)


def keep_edge(moved: Tensor, x: Tensor, steps: tuple[int, int], region: Region | None) -> Tensor:
    """``moved`` by ``steps``, and x where it came from beyond the bottom or right of an image."""
    if region is None or region.sizes is None:
        return moved
    for axis, step in enumerate(steps):
        if step < 0:
            i = torch.arange(region.size[axis], device=x.device) - step
            inside = i < region.sizes[:, axis, None]  # (B, H) or (B, W)
            inside = inside[:, :, None, None] if axis == 0 else inside[:, None, :, None]
            moved = torch.where(inside, moved, x)
    return moved
