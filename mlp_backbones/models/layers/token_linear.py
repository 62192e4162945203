"""A linear layer over the tokens of a map, whose weights follow the grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .mlp import init_linear
from .resampling import resample


class TokenLinear(nn.Linear):
    """A linear layer over the tokens of a map: (..., N_in) -> (..., N_out), channels before.

    An ``nn.Linear`` whose features are tokens. A checkpoint of another grid is resized
    while it is loaded: ``W' = U W D``, ``b' = U b``, with the matrices of the
    resolution adapter, where D acts on a spatial input and U on a spatial output.

    Args:
        in_tokens: Number of input tokens.
        out_tokens: Number of output tokens.
        spatial_in: Whether the inputs are the tokens of a square grid.
        spatial_out: Whether the outputs are the tokens of a square grid.
        interpolation: 'bilinear' or 'bicubic', for resizing.
        prefix_tokens: Number of tokens before those of the grid (class tokens).
    """

    def __init__(
        self,
        in_tokens: int,
        out_tokens: int,
        spatial_in: bool = True,
        spatial_out: bool = True,
        interpolation: str = 'bilinear',
        prefix_tokens: int = 0,
    ):
        super().__init__(in_tokens, out_tokens)
        self.prefix_tokens = prefix_tokens
        self.spatial_in = spatial_in
        self.spatial_out = spatial_out
        self.interpolation = interpolation
        init_linear(self)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        for name in ('weight', 'bias'):
            key, param = prefix + name, getattr(self, name)
            if key in state_dict and state_dict[key].shape != param.shape:
                value = state_dict[key]
                if self.spatial_out:
                    value = resize_tokens(
                        value, param.shape[0], self.interpolation, self.prefix_tokens, key
                    )
                if self.spatial_in and name == 'weight':
                    value = value @ self._shrink(value.shape[1], value, key)
                state_dict[key] = value
                check_shape(state_dict, key, param)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _shrink(self, tokens: int, like: Tensor, key: str) -> Tensor:
        """D = R(new grid -> old grid) as a matrix: its columns are resized unit vectors."""
        unit = torch.eye(self.weight.shape[1], dtype=like.dtype, device=like.device)
        return resize_tokens(unit, tokens, self.interpolation, self.prefix_tokens, key)


def resize_tokens(
    x: Tensor, tokens: int, interpolation: str, prefix_tokens: int = 0, key: str = ''
) -> Tensor:
    """Resample tokens (N, ...), ``prefix_tokens`` and a square grid, to ``tokens`` of them.

    Raises:
        ValueError: naming ``key``, if either number is not ``prefix_tokens`` + a square.
    """
    prefix, grid = x[:prefix_tokens], x[prefix_tokens:]
    old, new = (_side(n - prefix_tokens, key) for n in (len(x), tokens))
    grid = grid.cpu().double().reshape(1, old, old, -1)  # a device may have no float64
    grid = resample(grid, (new, new), interpolation).reshape(new * new, *x.shape[1:])
    return torch.cat([prefix, grid.to(x)])


def check_shape(state_dict: dict, key: str, param: Tensor) -> None:
    """Raise ValueError if ``state_dict`` has ``key`` in another shape than ``param``.

    Loaders that are not strict only log such a key and leave the parameter random.
    """
    if key in state_dict and state_dict[key].shape != param.shape:
        raise ValueError(
            f'{key}: the checkpoint has shape {tuple(state_dict[key].shape)}, the model '
            f'{tuple(param.shape)}; build the model with the arguments of the checkpoint, or '
            'leave this key out of it.'
        )


def _side(tokens: int, key: str) -> int:
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ValueError(
            f'{key}: the checkpoint has {tokens} tokens, which are no square grid, '
            'so that the weight cannot be resized.'
        )
    return side
