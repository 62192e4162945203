"""A linear layer over the tokens of a map, whose weights follow the grid."""

from __future__ import annotations

from torch import nn

from .grid_weights import GridWeights
from .mlp import init_linear


class TokenLinear(GridWeights, nn.Linear):
    """A linear layer over the tokens of a map: (..., N_in) -> (..., N_out), channels before.

    An ``nn.Linear`` whose features are tokens. A checkpoint of another grid is resized
    while it is loaded, see :class:`GridWeights`.

    Args:
        in_tokens: Number of input tokens.
        out_tokens: Number of output tokens.
        spatial_in: Whether the inputs are the tokens of a square grid.
        spatial_out: Whether the outputs are the tokens of a square grid.
        interpolation: 'bilinear' or 'bicubic', for resizing.
        prefix_tokens: Number of tokens before those of the grid (class tokens).
        bias: Whether there is a bias.
    """

    def __init__(
        self,
        in_tokens: int,
        out_tokens: int,
        spatial_in: bool = True,
        spatial_out: bool = True,
        interpolation: str = 'bilinear',
        prefix_tokens: int = 0,
        bias: bool = True,
    ):
        super().__init__(in_tokens, out_tokens, bias)
        self.prefix_tokens = prefix_tokens
        self.spatial_in = spatial_in
        self.spatial_out = spatial_out
        self.interpolation = interpolation
        init_linear(self)

    def token_axes(self) -> dict[str, tuple[int, ...]]:
        axes = (0,) * self.spatial_out + (1,) * self.spatial_in
        has_grid_bias = self.spatial_out and self.bias is not None
        return {'weight': axes, 'bias': (0,)} if has_grid_bias else {'weight': axes}
