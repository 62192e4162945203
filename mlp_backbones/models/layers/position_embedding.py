"""A learned position embedding for maps of any size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .grid_weights import GridWeights
from .region import Region
from .resampling import resample_up


class PositionEmbedding(GridWeights):
    """A vector for every token of a g x g grid, resampled to the size of the map.

    Args:
        grid: Side g of the grid, that of the region's matrices.
        dim: Channels.
        interpolation: 'bilinear' or 'bicubic', for weights of another grid in a checkpoint.
        prefix_tokens: Number of tokens before those of the grid (class tokens).
    """

    def __init__(
        self, grid: int, dim: int, interpolation: str = 'bicubic', prefix_tokens: int = 0
    ):
        super().__init__()
        self.grid = grid
        self.interpolation = interpolation
        self.prefix_tokens = prefix_tokens
        self.weight = nn.Parameter(torch.zeros(prefix_tokens + grid**2, dim))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x: Tensor, region: Region) -> tuple[Tensor, Tensor]:
        """Tokens (B, H, W, C) plus their embeddings, and the embeddings of the prefix, (P, C).

        Each image has the embeddings of its own size.
        """
        prefix, grid = self.weight[: self.prefix_tokens], self.weight[self.prefix_tokens :]
        grid = grid.unflatten(0, (1, self.grid, self.grid))
        return x + resample_up(grid, region.up), prefix

    def token_axes(self) -> dict[str, tuple[int, ...]]:
        return {'weight': (0,)}
