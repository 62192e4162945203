"""The resolution adapter: runs a token mixer of one grid on a map of any size.

A token mixer is a function of the g * g tokens of a square grid. The adapter cuts a map into
parts of g x g tokens, lets the mixer run on them, and puts the parts together again. It knows
nothing of the mixer, and the mixer nothing of resolution. At H == W == g every mode is the
mixer itself, bit for bit. See docs/design.md, section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .canvas import Canvas, keep_valid
from .resampling import check_interpolation, resample_by, resampling_matrices
from .tracing import is_compiling, is_zero

# From the parts of a map (B, P, N, C), and which of their tokens belong to an image (B, P, N)
# or None if all do, to what they become, (B, P, N, C).
TokenMixer = Callable[[Tensor, Tensor | None], Tensor]


class Interpolate:
    """One part: the map resampled to the grid, ``U f(D x)``.

    For a linear f of weight K and bias b that is ``U K D x + U b``.
    """

    def __init__(self, x: Tensor, adapter: ResolutionAdapter, canvas: Canvas | None):
        size, self.grid = x.shape[1:3], (adapter.grid, adapter.grid)
        if canvas is None:
            self.down = resampling_matrices(size, self.grid, adapter.interpolation, x)
            self.up = resampling_matrices(self.grid, size, adapter.interpolation, x)
        else:
            self.down, self.up = canvas.down, canvas.up

    def partition(self, x: Tensor) -> Tensor:
        return resample_by(x, *self.down).flatten(1, 2)[:, None]

    def unpartition(self, parts: Tensor) -> Tensor:
        return resample_by(parts[:, 0].unflatten(1, self.grid), *self.up)

    def mask(self) -> None:
        return None  # what lies beyond an image is in no token of the grid


class Window:
    """The g x g windows of the map, with zeros beyond an image.

    At twice the native size this is the recipe of MLP-Mixer's appendix C for
    fine-tuning at a higher resolution (a block-diagonal weight).
    """

    def __init__(self, x: Tensor, adapter: ResolutionAdapter, canvas: Canvas | None):
        self.g, self.size, self.canvas = adapter.grid, x.shape[1:3], canvas
        self.device = x.device
        self.number = tuple(-(-n // self.g) for n in self.size)
        self.padding = tuple(m * self.g - n for m, n in zip(self.number, self.size, strict=True))

    def partition(self, x: Tensor) -> Tensor:
        return self.cut(self.pad(keep_valid(x, self.canvas)))

    def unpartition(self, parts: Tensor) -> Tensor:
        return crop(self.join(parts), self.size)

    def mask(self) -> Tensor | None:
        if self.canvas is None and not self.is_padded():
            return None
        h, w = self.size
        inside = torch.ones(1, h, w, 1, dtype=torch.bool, device=self.device)
        return self.cut(self.pad(inside if self.canvas is None else self.canvas.mask))[..., 0]

    def is_padded(self) -> bool:
        return not all(map(is_zero, self.padding))

    def pad(self, x: Tensor) -> Tensor:
        rows, columns = self.padding
        return F.pad(x, (0, 0, 0, columns, 0, rows)) if self.is_padded() else x

    def cut(self, x: Tensor) -> Tensor:
        (r, s), g, (b, c) = self.number, self.g, (len(x), x.shape[-1])
        x = x.view(b, r, g, s, g, c).permute(2, 4, 0, 1, 3, 5)  # (g, g, B, r, s, C)
        # Tokens first in memory: a linear mixer is then one matrix product for all parts.
        return x.reshape(g * g, b, r * s, c).permute(1, 2, 0, 3)

    def join(self, parts: Tensor) -> Tensor:
        (r, s), g, (b, c) = self.number, self.g, (len(parts), parts.shape[-1])
        x = parts.view(b, r, s, g, g, c).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(b, r * g, s * g, c)


class Grid(Window):
    """Groups of g x g tokens that each span the whole map.

    The dilated partition of MaxViT (sec. 3.2) and MAXIM: with r = ceil(H / g), a group
    takes every r-th row, likewise the columns.
    """

    def partition(self, x: Tensor) -> Tensor:
        return self.cut(self.spread(x))

    def unpartition(self, parts: Tensor) -> Tensor:
        x = self.join(parts)
        if self.canvas is None:
            return crop(x, self.size)
        i, j = (self.slots(axis) for axis in (0, 1))
        return take(x, i, j)

    def mask(self) -> Tensor | None:
        if self.canvas is None:
            return super().mask()
        return self.cut(self.spread(self.canvas.mask))[..., 0]

    def spread(self, x: Tensor) -> Tensor:
        """Each image with zeros up to g groups of r rows, and as many rows as the canvas has."""
        if self.canvas is None:
            return self.pad(x)
        (i, has_row), (j, has_column) = (self.sources(axis) for axis in (0, 1))
        return take(x, i, j) * (has_row[:, :, None] & has_column[:, None, :])[..., None]

    def steps(self, axis: int) -> tuple[Tensor, Tensor]:
        n = self.canvas.sizes[:, axis, None]  # (B, 1)
        return n, (n + self.g - 1) // self.g

    def sources(self, axis: int) -> tuple[Tensor, Tensor]:
        """The row of the map for each row of its groups, (B, g r), and whether there is one."""
        n, step = self.steps(axis)
        position = torch.arange(self.g, device=self.device)[:, None]
        group = torch.arange(self.number[axis], device=self.device)
        source = (position * step[..., None] + group).flatten(1)
        there = (group.expand(self.g, -1).flatten() < step) & (source < n)
        return source * there, there

    def slots(self, axis: int) -> Tensor:
        """The row among those of the groups for each row of the map, (B, H)."""
        _, step = self.steps(axis)
        i = torch.arange(self.size[axis], device=self.device)
        slot = i // step * self.number[axis] + i % step
        return slot * (i < self.canvas.sizes[:, axis, None])

    def cut(self, x: Tensor) -> Tensor:
        (r, s), g, (b, c) = self.number, self.g, (len(x), x.shape[-1])
        x = x.view(b, g, r, g, s, c).permute(1, 3, 0, 2, 4, 5)  # (g, g, B, r, s, C)
        return x.reshape(g * g, b, r * s, c).permute(1, 2, 0, 3)

    def join(self, parts: Tensor) -> Tensor:
        (r, s), g, (b, c) = self.number, self.g, (len(parts), parts.shape[-1])
        x = parts.view(b, r, s, g, g, c).permute(0, 3, 1, 4, 2, 5)
        return x.reshape(b, g * r, g * s, c)


class Whole:
    """One part: all tokens, for mixers of any number of tokens (attention)."""

    def __init__(self, x: Tensor, adapter: ResolutionAdapter, canvas: Canvas | None):
        self.size, self.canvas = x.shape[1:3], canvas

    def partition(self, x: Tensor) -> Tensor:
        return x.flatten(1, 2)[:, None]

    def unpartition(self, parts: Tensor) -> Tensor:
        return parts[:, 0].unflatten(1, self.size)

    def mask(self) -> Tensor | None:
        return None if self.canvas is None else self.canvas.mask.flatten(1)[:, None]


def crop(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The first H rows and W columns of a map (B, H', W', C)."""
    h, w = size
    if not is_compiling():
        return x[:, :h, :w]
    # of a slice, a compiler would ask whether it is the whole map
    return F.pad(x, (0, 0, 0, w - x.shape[2], 0, h - x.shape[1]))


def take(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Rows (B, h) and columns (B, w) of each map of (B, H, W, C): (B, h, w, C)."""
    index = rows[:, :, None] * x.shape[2] + columns[:, None, :]
    tokens = index.flatten(1)[..., None].expand(-1, -1, x.shape[-1])
    return x.flatten(1, 2).gather(1, tokens).unflatten(1, index.shape[1:])


MODES = {'interpolate': Interpolate, 'window': Window, 'grid': Grid, 'global': Whole}
# What a mixer whose weights belong to one grid can do.
GRID_MODES = ('interpolate', 'window', 'grid')


@dataclass(frozen=True)
class ResolutionAdapter:
    """Applies a token mixer of a ``grid`` x ``grid`` map to a map of any size.

    Args:
        grid: Side g of the mixer's grid, in tokens.
        mode: 'interpolate', 'window' or 'grid'; 'global' for a mixer of any size.
        interpolation: 'bilinear' or 'bicubic', for the mode 'interpolate'.
    """

    grid: int
    mode: str = 'interpolate'
    interpolation: str = 'bilinear'

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f'resolution mode {self.mode!r} is unknown; {_modes_message(MODES)}')
        check_interpolation(self.interpolation)

    def __call__(
        self, linear: Callable[[Tensor], Tensor], x: Tensor, canvas: Canvas | None = None
    ) -> Tensor:
        """``W x + b`` over the tokens of ``x``, (B, H, W, C), for any H and W of at least 1.

        Args:
            linear: A linear layer over tokens, (..., C, g * g) -> (..., C, g * g).
            x: Tokens (B, H, W, C).
            canvas: The images on x; None if they fill it.
        """
        parts = self._parts(x, canvas)
        return parts.unpartition(linear(parts.partition(x).mT).mT)

    def apply(self, mixer: TokenMixer, x: Tensor, canvas: Canvas | None = None) -> Tensor:
        """The same for any token mixer, of parts (B, P, N, C) and their mask (B, P, N)."""
        parts = self._parts(x, canvas)
        return parts.unpartition(mixer(parts.partition(x), parts.mask()))

    def _parts(self, x: Tensor, canvas: Canvas | None) -> Interpolate | Window | Whole:
        # the mixer itself, bit for bit: even a copy in another layout changes the last one
        is_native = canvas is None and all(is_zero(n - self.grid) for n in x.shape[1:3])
        return (Whole if is_native else MODES[self.mode])(x, self, canvas)


def parse_resolution(
    resolution: str | Sequence[str], num_stages: int, modes: Sequence[str] = GRID_MODES
) -> list[list[str]]:
    """Expand ``resolution`` to one pattern of modes per stage.

    Args:
        resolution: One pattern for every stage, or a sequence with one per stage.
            A pattern is a mode, or modes joined by '+' that the blocks of the stage
            take in turn: 'window+interpolate'.
        num_stages: Number of stages.
        modes: The modes to choose from.

    Returns:
        A list of modes per stage; block i of a stage takes entry ``i % len``.

    Raises:
        ValueError: for an unknown mode, or a sequence of the wrong length.
        TypeError: for anything but strings.
    """
    patterns = [resolution] * num_stages if isinstance(resolution, str) else resolution
    if not isinstance(patterns, Sequence) or not all(isinstance(p, str) for p in patterns):
        raise TypeError(f'resolution={resolution!r} is no name and no sequence of names.')
    if len(patterns) != num_stages:
        raise ValueError(
            f'resolution={resolution!r} names {len(patterns)} stages, but there are {num_stages}; '
            'give one name for all stages or one for each.'
        )
    stages = [pattern.split('+') for pattern in patterns]
    for mode in sum(stages, []):
        if mode not in modes:
            raise ValueError(
                f'resolution={resolution!r}: mode {mode!r} is unknown here; '
                f'{_modes_message(modes)}'
            )
    return stages


def _modes_message(modes: Iterable[str]) -> str:
    names = ', '.join(map(repr, modes))
    return f"choose among {names}, or alternate by block, as in 'window+interpolate'."
