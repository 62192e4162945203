"""Token mixing with a class token beside the map."""

from __future__ import annotations

import torch
from einops import reduce, repeat
from torch import Tensor

from ..layers import ResolutionAdapter


def mix_with_class_token(
    adapter: ResolutionAdapter, mixer, x: Tensor, size: tuple[int, int]
) -> Tensor:
    """Mix a map and its class token, for mixers that take 1 + N tokens.

    Where the adapter cuts the map into parts, each part meets the class token, and the
    class token becomes the mean of what the parts make of it.

    Args:
        adapter: The resolution adapter.
        mixer: A token mixer, (B, 1 + N, C) -> (B, 1 + N, C).
        x: Tokens (B, 1 + H W, C), the class token first.
        size: (H, W).

    Returns:
        Tokens (B, 1 + H W, C).
    """
    token, tokens = x[:, :1], x[:, 1:].unflatten(1, size)
    mixed_token = []

    def mix_part(part: Tensor) -> Tensor:  # (B P, N, C)
        repeated = repeat(token, 'b n c -> (b p) n c', p=len(part) // len(token))
        mixed = mixer(torch.cat([repeated, part], dim=1))
        mixed_token.append(reduce(mixed[:, :1], '(b p) n c -> b n c', 'mean', b=len(token)))
        return mixed[:, 1:]

    mixed = adapter(mix_part, tokens)
    return torch.cat([*mixed_token, mixed.flatten(1, 2)], dim=1)
