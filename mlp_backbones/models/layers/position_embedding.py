"""A learned position embedding for maps of any size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .canvas import Canvas
from .resampling import batch_resampling_matrices, resample, resample_by
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

    def forward(self, x: Tensor, canvas: Canvas | None = None) -> tuple[Tensor, Tensor]:
        """Tokens (B, H, W, C) plus their embeddings, and the embeddings of the prefix, (P, C).

        With ``canvas``, each image has the embeddings of its own size.
        """
        prefix, grid = self.weight.tensor_split([self.prefix_tokens])
        grid = grid.unflatten(0, (1, self.grid, self.grid))
        if canvas is None:
            return x + resample(grid, x.shape[1:3], self.interpolation), prefix
        n = canvas.sizes[..., None, None]
        rows, columns = (
            batch_resampling_matrices(n[:, i], self.grid, (m, self.grid), self.interpolation, x)[1]
            for i, m in enumerate(x.shape[1:3])
        )
        return x + resample_by(grid.expand(len(x), -1, -1, -1), rows, columns), prefix

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        key = prefix + 'weight'
        if key in state_dict and state_dict[key].shape != self.weight.shape:
            state_dict[key] = resize_tokens(
                state_dict[key], len(self.weight), self.interpolation, self.prefix_tokens, key
            )
            check_shape(state_dict, key, self.weight)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
