"""The resolution adapter: runs a token mixer of one grid on a map of any size.

A token mixer is a function ``f`` on the tokens of a square grid, row by row:
(B, g * g, C) -> (B, g * g, C). Given a smaller size as well, (h, w), it takes and returns
the tokens of the grid's top left corner, as if the others were zeros and their results not
asked for. The adapter knows nothing of the mixer and the mixer nothing of resolution. At
H == W == g every mode is ``f`` itself, bit for bit. See docs/design.md, section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from .resampling import check_interpolation, resample
from .slices import by_band, join

TokenMixer = Callable[[Tensor, tuple[int, int]], Tensor]


def interpolate(f: TokenMixer, x: Tensor, g: int, interpolation: str) -> Tensor:
    """``U f(D x)``: for a linear ``f`` of weight K and bias b, ``U K D x + U b``."""
    _, h, w, _ = x.shape
    mixed = f(resample(x, (g, g), interpolation).flatten(1, 2), (g, g))
    return resample(mixed.unflatten(1, (g, g)), (h, w), interpolation)


def window(f: TokenMixer, x: Tensor, g: int, interpolation: str) -> Tensor:
    """Share ``f`` among the g x g windows of the map; those at the border may be smaller.

    At twice the native size this is the recipe of MLP-Mixer's appendix C for
    fine-tuning at a higher resolution (a block-diagonal weight).
    """
    rows, columns = ([(n // g, g), (1, n % g)] for n in x.shape[1:3])
    return _share(f, x, rows, columns)


def grid(f: TokenMixer, x: Tensor, g: int, interpolation: str) -> Tensor:
    """Share ``f`` among groups of up to g x g tokens that each span the whole map.

    The dilated partition of MaxViT (sec. 3.2) and MAXIM: with r = ceil(H / g), a group
    takes every r-th row, likewise the columns.
    """
    runs, orders = [], []
    for n in x.shape[1:3]:
        r = -(-n // g)
        runs.append([(n % r, n // r + 1), (r - n % r, n // r)])
        orders.append(torch.cat([torch.arange(i, n, r, device=x.device) for i in range(r)]))
    i, j = orders
    mixed = _share(f, x[:, i][:, :, j], *runs)  # in this order the groups are windows
    return mixed[:, i.argsort()][:, :, j.argsort()]


def whole(f: TokenMixer, x: Tensor, g: int, interpolation: str) -> Tensor:
    """``f`` on all tokens of the map, for mixers of any number of tokens (attention)."""
    return f(x.flatten(1, 2), x.shape[1:3]).unflatten(1, x.shape[1:3])


Runs = Sequence[tuple[int, int]]


def _share(f: TokenMixer, x: Tensor, rows: Runs, columns: Runs) -> Tensor:
    """Apply ``f`` to the rectangles of a map whose axes fall into ``number`` parts of equal
    ``length`` one after the other, for each (number, length) of ``rows`` and ``columns``.
    """
    # Splitting and joining have each other as backward pass, without zeros to be added up.
    bands = [
        join([_parts(f, block, (g, k)) for block, k in _split(band, columns, dim=2)], dim=2)
        for band, g in _split(x, rows, dim=1)
    ]
    return join(bands, dim=1)


def _split(x: Tensor, runs: Runs, dim: int) -> list[tuple[Tensor, int]]:
    runs = [run for run in runs if run[0] * run[1]]
    blocks = x.split([number * length for number, length in runs], dim)
    return [(block, length) for block, (_, length) in zip(blocks, runs, strict=True)]


def _parts(f: TokenMixer, x: Tensor, size: tuple[int, int]) -> Tensor:
    """Apply ``f`` to each of the g x k rectangles of the map."""
    b, h, _, _ = x.shape
    g, k = size
    # Tokens first in memory: a linear f is then one matrix product for all parts, and
    # so is the gradient of its weight.
    parts = rearrange(x, 'b (r g) (s k) c -> (g k) (b r s) c', g=g, k=k)
    mixed = f(parts.transpose(0, 1), size)
    return rearrange(mixed, '(b r s) (g k) c -> b (r g) (s k) c', b=b, r=h // g, g=g)


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

    def run(self, branch: Callable[[Tensor], Tensor], x: Tensor, width: int) -> Tensor:
        """``branch(x)`` for a function of maps that mixes tokens by this adapter alone.

        Windows let it run on one band of the map after the other, see ``by_band``.

        Args:
            branch: From a map (B, H, W, C) to one of the same size.
            x: Tokens (B, H, W, C).
            width: Channels of the widest tensor in ``branch``.
        """
        return by_band(branch, x, width, self.grid) if self.mode == 'window' else branch(x)


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
