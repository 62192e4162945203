"""Weights that belong to a grid of tokens, and follow it when they are loaded."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...checkpoints import wrong_shape
from .resampling import resample


class GridWeights(nn.Module):
    """A module with parameters of one grid. A checkpoint of another is resized while it is loaded:
    ``W' = U W D``, ``b' = U b``, with the matrices of the resolution adapter.

    A subclass has ``interpolation`` and ``prefix_tokens``, the number of tokens before those of
    the grid (class tokens).
    """

    interpolation: str
    prefix_tokens: int

    def token_axes(self) -> dict[str, tuple[int, ...]]:
        """Which axes of its parameters are tokens: 0, on which U acts, or 1, on which D does."""
        raise NotImplementedError

    def grid_of(self, name: str, shape: torch.Size) -> int | None:
        """Side of the grid of a weight that can be resized to our ``name``; None if it cannot."""
        own, axes = getattr(self, name).shape, self.token_axes()[name]
        if len(shape) != len(own) or any(
            shape[i] != n for i, n in enumerate(own) if i not in axes
        ):
            return None
        sides = {side_of(shape[i] - self.prefix_tokens) for i in axes}
        return sides.pop() if len(sides) == 1 else None

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        for name, axes in self.token_axes().items():
            key, param = prefix + name, getattr(self, name)
            if key in state_dict and state_dict[key].shape != param.shape:
                value = state_dict[key]
                if self.grid_of(name, value.shape) is None:
                    raise wrong_shape(key, value, param, of_grid=True)
                if 0 in axes:
                    value = self._resize(value, len(param))
                if 1 in axes:  # the columns of D are resized unit vectors
                    unit = torch.eye(param.shape[1], dtype=value.dtype, device=value.device)
                    value = value @ self._resize(unit, value.shape[1])
                state_dict[key] = value
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _resize(self, x: Tensor, tokens: int) -> Tensor:
        """Resample tokens (N, ...) to ``tokens`` of them."""
        prefix, grid = x[: self.prefix_tokens], x[self.prefix_tokens :]
        old, new = (side_of(n - self.prefix_tokens) for n in (len(x), tokens))
        grid = grid.cpu().double().reshape(1, old, old, -1)  # a device may have no float64
        grid = resample(grid, (new, new), self.interpolation).reshape(new * new, *x.shape[1:])
        return torch.cat([prefix, grid.to(x)])


def side_of(tokens: int) -> int | None:
    """Side of a square grid of that many tokens; None if there is none."""
    side = math.isqrt(max(tokens, 0))
    return side if side and side * side == tokens else None
