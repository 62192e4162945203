"""A learned position embedding for maps of any size."""

import torch
from torch import Tensor, nn

from .resampling import resample
from .token_linear import check_shape, resize_tokens
from .valid_size import Sizes, per_image


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

    def forward(self, x: Tensor, valid: Sizes = None) -> tuple[Tensor, Tensor]:
        """Tokens (B, H, W, C) plus their embeddings, and the embeddings of the prefix, (P, C).

        With ``valid``, the sizes in tokens of the images on this canvas, each image has the
        embeddings of its own size, and zeros beyond it.
        """
        return per_image(self.add, x, valid), self.weight[: self.prefix_tokens]

    def add(self, x: Tensor) -> Tensor:
        grid = self.weight[self.prefix_tokens :].unflatten(0, (1, self.grid, self.grid))
        return x + resample(grid, x.shape[1:3], self.interpolation)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        key = prefix + 'weight'
        if key in state_dict and state_dict[key].shape != self.weight.shape:
            state_dict[key] = resize_tokens(
                state_dict[key], len(self.weight), self.interpolation, self.prefix_tokens, key
            )
            check_shape(state_dict, key, self.weight)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
