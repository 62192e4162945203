"""The resolution adapter: runs a token mixer of one grid on a map of any size.

A token mixer is a function ``f`` on the tokens of a square grid, row by row:
(B, g * g, C) -> (B, g * g, C). The adapter knows nothing of the mixer and the mixer
nothing of resolution. At H == W == g every mode is ``f`` itself, bit for bit. See
docs/design.md, section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .resampling import check_interpolation, resample

TokenMixer = Callable[[Tensor], Tensor]


def interpolate(f: TokenMixer, x: Tensor, grid: int, interpolation: str) -> Tensor:
    """``U f(D x)``: for a linear ``f`` of weight K and bias b, ``U K D x + U b``."""
    _, h, w, _ = x.shape
    mixed = f(resample(x, (grid, grid), interpolation).flatten(1, 2))
    return resample(mixed.unflatten(1, (grid, grid)), (h, w), interpolation)


def window(f: TokenMixer, x: Tensor, grid: int, interpolation: str) -> Tensor:
    """Share ``f`` among the g x g windows of the map, padded with zeros to fit.

    At twice the native size this is the recipe of MLP-Mixer's appendix C for
    fine-tuning at a higher resolution (a block-diagonal weight).
    """
    return _share(f, x, grid, 'b (r g) (s k) c')


def grid(f: TokenMixer, x: Tensor, grid: int, interpolation: str) -> Tensor:
    """Share ``f`` among g x g groups of tokens that each span the whole map.

    The dilated partition of MaxViT (sec. 3.2) and MAXIM: with the map padded to
    (g r, g s), a group takes every r-th row and every s-th column.
    """
    return _share(f, x, grid, 'b (g r) (k s) c')


def whole(f: TokenMixer, x: Tensor, grid: int, interpolation: str) -> Tensor:
    """``f`` on all tokens of the map, for mixers of any number of tokens (attention)."""
    return f(x.flatten(1, 2)).unflatten(1, x.shape[1:3])


def _share(f: TokenMixer, x: Tensor, g: int, partition: str) -> Tensor:
    """Apply ``f`` to the r x s parts of g x k tokens that ``partition`` names."""
    b, h, w, _ = x.shape
    if h % g or w % g:
        x = F.pad(x, (0, 0, 0, -w % g, 0, -h % g))
    rows = x.shape[1] // g
    # Tokens first in memory: a linear f is then one matrix product for all parts, and
    # so is the gradient of its weight.
    parts = rearrange(x, f'{partition} -> (g k) (b r s) c', g=g, k=g)
    mixed = f(parts.transpose(0, 1))
    x = rearrange(mixed, f'(b r s) (g k) c -> {partition}', b=b, r=rows, g=g)
    return x[:, :h, :w]


MODES = {'interpolate': interpolate, 'window': window, 'grid': grid, 'global': whole}
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

    def __call__(self, mixer: TokenMixer, x: Tensor) -> Tensor:
        """Mix the tokens of ``x``, (B, H, W, C), for any H and W of at least 1."""
        return MODES[self.mode](mixer, x, self.grid, self.interpolation)


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
