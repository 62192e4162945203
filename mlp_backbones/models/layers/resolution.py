"""The resolution adapter: runs a token mixer of one grid on a map of any size.

A token mixer is a function of the g * g tokens of a square grid. The adapter cuts a map into
parts of g x g tokens, lets the mixer run on them, and puts the parts together again. It knows
nothing of the mixer, and the mixer nothing of resolution. At H == W == g every mode is the
mixer itself, bit for bit. See docs/design.md, section 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .patch import pad_to_multiple
from .region import Region, keep_valid, make_region
from .resampling import check_interpolation, resample_down, resample_up
from .tracing import is_compiling, is_zero

# --- the modes --------------------------------------------------------------------------------
# A mode cuts a map (B, H, W, C) into P parts of N tokens, (B, P, C, N), and puts them together
# again. Where a part may hold other tokens than those of an image, it says which are one's.


class Whole:
    """One part: all tokens, for mixers of any number of tokens (attention)."""

    @staticmethod
    def partition(x: Tensor, region: Region, g: int) -> Tensor:
        return x.flatten(1, 2).transpose(-1, -2)[:, None]

    @staticmethod
    def unpartition(parts: Tensor, region: Region, g: int) -> Tensor:
        return parts[:, 0].transpose(-1, -2).unflatten(1, region.size)

    @staticmethod
    def mask(x: Tensor, region: Region, g: int) -> Tensor | None:
        """Which tokens of each part belong to an image, (B, P, N), of batch 1 if the images fill
        the map; None if all do.
        """
        return None if region.mask is None else region.mask.flatten(1)[:, None]


class Interpolate:
    """One part: the map resampled to the grid, ``U f(D x)``.

    For a linear f of weight K and bias b that is ``U K D x + U b``.
    """

    @staticmethod
    def partition(x: Tensor, region: Region, g: int) -> Tensor:
        return resample_down(x, region.down).flatten(1, 2).transpose(-1, -2)[:, None]

    @staticmethod
    def unpartition(parts: Tensor, region: Region, g: int) -> Tensor:
        return resample_up(parts[:, 0].transpose(-1, -2).unflatten(1, (g, g)), region.up)

    @staticmethod
    def mask(x: Tensor, region: Region, g: int) -> None:
        return None  # what lies beyond an image is in no token of the grid


class Window:
    """The g x g windows of the map, with zeros beyond an image.

    At twice the native size this is the recipe of MLP-Mixer's appendix C for
    fine-tuning at a higher resolution (a block-diagonal weight).
    """

    @staticmethod
    def partition(x: Tensor, region: Region, g: int) -> Tensor:
        return window_partition(pad_to_multiple(keep_valid(x, region), g), g)

    @staticmethod
    def unpartition(parts: Tensor, region: Region, g: int) -> Tensor:
        rows, columns = ((n + g - 1) // g for n in region.size)
        return crop(window_unpartition(parts, rows, columns, g), region.size)

    @staticmethod
    def mask(x: Tensor, region: Region, g: int) -> Tensor | None:
        if is_full(region, g):
            return None
        mask = region.mask
        if mask is None:
            mask = x.new_ones((1, *region.size, 1), dtype=torch.bool)
        return window_partition(pad_to_multiple(mask, g), g)[:, :, 0]


class Grid:
    """Groups of g x g tokens that each span the whole image, by a table of places.

    The dilated partition of MaxViT (sec. 3.2) and MAXIM: with r = ceil(n / g), a group takes
    every r-th of the n rows of an image, likewise the columns, and zeros beyond them.
    """

    @staticmethod
    def partition(x: Tensor, region: Region, g: int) -> Tensor:
        rows, columns, there = Grid.sources(x, region, g)
        parts = take(x, rows.flatten(1), columns.flatten(1), region)
        parts = parts.unflatten(2, columns.shape[1:]).unflatten(1, rows.shape[1:])
        if not is_full(region, g):
            parts = parts * there[..., None]
        return tokens_first(parts.permute(1, 3, 0, 2, 4, 5))

    @staticmethod
    def unpartition(parts: Tensor, region: Region, g: int) -> Tensor:
        rows, columns = ((n + g - 1) // g for n in region.size)
        x = parts.unflatten(3, (g, g)).unflatten(1, (rows, columns))  # (B, r, s, C, g, g)
        x = x.permute(0, 4, 1, 5, 2, 3).flatten(3, 4).flatten(1, 2)  # (B, g r, g s, C)
        slots = []
        for axis, groups in enumerate((rows, columns)):
            n, step = Grid.steps(parts, region, g, axis)
            i = torch.arange(region.size[axis], device=parts.device)
            slots.append((i // step * groups + i % step) * (i < n))
        return take(x, *slots, region)

    @staticmethod
    def mask(x: Tensor, region: Region, g: int) -> Tensor | None:
        if is_full(region, g):
            return None
        _, _, there = Grid.sources(x, region, g)
        return there.permute(0, 2, 4, 1, 3).flatten(3, 4).flatten(1, 2)

    @staticmethod
    def steps(like: Tensor, region: Region, g: int, axis: int) -> tuple[Tensor, Tensor]:
        """The length of each image, (B, 1) or (1, 1), and the distance r of a group's tokens."""
        if region.sizes is None:
            n = torch.arange(1, device=like.device)[:, None] + region.size[axis]
        else:
            n = region.sizes[:, axis, None]
        return n, (n + g - 1) // g

    @staticmethod
    def sources(x: Tensor, region: Region, g: int) -> tuple[Tensor, Tensor, Tensor]:
        """The rows of the map for those of the groups, (B, g, r), the columns, (B, g, s), and
        which of these tokens there are, (B, g, r, g, s); of batch 1 if all images fill the map.
        """
        places, inside = [], []
        for axis in (0, 1):
            n, step = (m[..., None] for m in Grid.steps(x, region, g, axis))
            position = torch.arange(g, device=x.device)[:, None]
            group = torch.arange((region.size[axis] + g - 1) // g, device=x.device)
            source = position * step + group
            there = (group < step) & (source < n)
            places.append(source * there)
            inside.append(there)
        return *places, inside[0][:, :, :, None, None] & inside[1][:, None, None]


def is_full(region: Region, g: int) -> bool:
    """Whether parts of g x g tokens are known to hold tokens of the images alone."""
    return region.mask is None and all(is_zero((n + g - 1) // g * g - n) for n in region.size)


def tokens_first(x: Tensor) -> Tensor:
    """(g, g, B, r, s, C) -> (B, r s, C, g g), in memory as it was: to a linear mixer, the parts
    are then one matrix.
    """
    x = x.contiguous().flatten(3, 4).flatten(0, 1)  # (g g, B, r s, C)
    return x.permute(1, 2, 3, 0)


def window_partition(x: Tensor, g: int) -> Tensor:
    """(B, r g, s g, C) -> (B, r s, C, g g)."""
    x = x.unflatten(2, (-1, g)).unflatten(1, (-1, g))  # (B, r, g, s, g, C)
    return tokens_first(x.permute(2, 4, 0, 1, 3, 5))


def window_unpartition(parts: Tensor, rows: int, columns: int, g: int) -> Tensor:
    """(B, r s, C, g g) -> (B, r g, s g, C)."""
    x = parts.unflatten(3, (g, g)).unflatten(1, (rows, columns))  # (B, r, s, C, g, g)
    return x.permute(0, 1, 4, 2, 5, 3).flatten(3, 4).flatten(1, 2)


def crop(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The first H rows and W columns of a map (B, H', W', C)."""
    h, w = size
    if not is_compiling():
        return x[:, :h, :w]
    # of a slice, a compiler would ask whether it is the whole map
    return F.pad(x, (0, 0, 0, w - x.shape[2], 0, h - x.shape[1]))


def take(x: Tensor, rows: Tensor, columns: Tensor, region: Region) -> Tensor:
    """Rows (B, h) and columns (B, w) of each map of (B, H, W, C), or (1, h) and (1, w) of all if
    the images fill them: (B, h, w, C).
    """
    if region.sizes is None:
        return x.index_select(1, rows[0]).index_select(2, columns[0])
    first = torch.arange(x.shape[0], device=x.device)[:, None, None] * x.shape[1]
    places = (first + rows[:, :, None]) * x.shape[2] + columns[:, None, :]
    taken = x.flatten(0, 2).index_select(0, places.flatten())
    return taken.unflatten(0, places.shape)


MODES = {'interpolate': Interpolate, 'window': Window, 'grid': Grid, 'global': Whole}
# What a mixer whose weights belong to one grid can do.
GRID_MODES = ('interpolate', 'window', 'grid')


# --- the adapter ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Resolution:
    """How the token mixer of a block meets maps of any size.

    Args:
        grid: Side g of the mixer's grid, in tokens.
        mode: 'interpolate', 'window' or 'grid'; 'global' for a mixer of any size.
        interpolation: 'bilinear' or 'bicubic', for the mode 'interpolate'.
        prefix_tokens: Number of tokens before those of the map (class tokens).
    """

    grid: int
    mode: str = 'interpolate'
    interpolation: str = 'bilinear'
    prefix_tokens: int = 0

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f'resolution mode {self.mode!r} is unknown; {_modes_message(MODES)}')
        check_interpolation(self.interpolation)

    @property
    def tokens(self) -> int:
        """Number of tokens that a mixer of the grid has: ``prefix_tokens + grid**2``."""
        return self.prefix_tokens + self.grid**2

    @property
    def is_local_to_bands(self) -> bool:
        """Whether tokens are mixed within bands of ``grid`` rows alone."""
        return self.mode == 'window' and not self.prefix_tokens


class AnyResolution(nn.Module):
    """A token mixer f of one grid, on maps of any size.

    Prefix tokens meet every part of the map; the new ones are the mean over the parts that hold
    tokens of the image.

    Args:
        f: A token mixer, (B', C, N) -> (B', C', N) with N = ``resolution.tokens``: tokens last,
            so that a linear layer mixes them.
        resolution: The grid of f and how it meets other sizes.
        key_mask: Whether f is called with a second argument: which of its tokens belong to an
            image, (B', N), or None if all do. Without it they are zeros, and mixed like others.
    """

    def __init__(self, f: nn.Module, resolution: Resolution, key_mask: bool = False):
        super().__init__()
        self.f = f
        self.resolution = resolution
        self.key_mask = key_mask

    def forward(self, x: Tensor, region: Region | None = None) -> Tensor:
        """Mix tokens.

        Args:
            x: A map (B, H, W, C) for any H and W of at least 1; with prefix tokens
                (B, prefix_tokens + H W, C).
            region: Where the images lie on it. Default: they fill it.

        Returns:
            Tokens in the form of x.
        """
        g, prefix = self.resolution.grid, None
        if self.resolution.prefix_tokens:
            prefix = x[:, : self.resolution.prefix_tokens]
            x = x[:, self.resolution.prefix_tokens :].unflatten(1, region.size)
        elif region is None:
            region = make_region(x, None, g, self.resolution.interpolation)
        mode = self.mode(region)
        parts = mode.partition(x, region, g)  # (B, P, C, N)
        used = mode.mask(x, region, g) if self.key_mask or prefix is not None else None
        if prefix is None:
            return mode.unpartition(self.mix(parts, used), region, g)
        prefix = prefix.transpose(-1, -2)[:, None].expand(-1, parts.shape[1], -1, -1)
        with_prefix = None if used is None else F.pad(used, (prefix.shape[-1], 0), value=True)
        mixed = self.mix(torch.cat([prefix, parts], -1), with_prefix)
        count = self.resolution.prefix_tokens
        prefix, parts = mixed[..., :count], mixed[..., count:]
        if used is not None:
            share = used.any(-1)[..., None, None].to(prefix.dtype)
            prefix = (prefix * share).sum(1) / share.sum(1)
        else:
            prefix = prefix.mean(1)
        return torch.cat(
            [prefix.transpose(-1, -2), mode.unpartition(parts, region, g).flatten(1, 2)], 1
        )

    def mode(self, region: Region) -> type:
        """How this map is cut into parts: at the native size not at all."""
        is_native = all(is_zero(n - self.resolution.grid) for n in region.size)
        whole = is_native and region.mask is None
        return Whole if whole else MODES[self.resolution.mode]

    def mix(self, parts: Tensor, used: Tensor | None) -> Tensor:
        """f on parts (B, P, C, N), of which tokens (B, P, N) belong to an image."""
        x = parts.flatten(0, 1)
        if not self.key_mask:
            mixed = self.f(x)
        else:
            if used is not None:  # a part without any gives what is not used, but finite
                used = (used | ~used.any(-1, keepdim=True)).expand_as(parts[:, :, 0]).flatten(0, 1)
            mixed = self.f(x, used)
        return mixed.unflatten(0, (-1, parts.shape[1]))

    def extra_repr(self) -> str:
        return str(self.resolution)


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
        raise TypeError(f'resolution={resolution!r} is neither a name nor a sequence of names.')
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
