"""A learned position embedding for maps of any size."""

import torch
from torch import Tensor, nn

from .resampling import resample
from .token_linear import check_shape, resize_tokens


class PositionEmbedding(nn.Module):
    """A vector for every token of a g x g grid, resampled to the size of the map.

    Args:
        grid: Side g of the grid.
        dim: Channels.
        interpolation: 'bilinear' or 'bicubic'.
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

    def forward(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The embeddings of the prefix, (P, C), and of a map of ``size``, (H, W, C)."""
        prefix, grid = self.weight.tensor_split([self.prefix_tokens])
        grid = grid.unflatten(0, (self.grid, self.grid))
        return prefix, resample(grid[None], size, self.interpolation)[0]

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        key = prefix + 'weight'
        if key in state_dict and state_dict[key].shape != self.weight.shape:
            state_dict[key] = resize_tokens(
                state_dict[key], len(self.weight), self.interpolation, self.prefix_tokens, key
            )
            check_shape(state_dict, key, self.weight)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
