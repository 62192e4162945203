"""Token mixing with a class token beside the map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers import Canvas, ResolutionAdapter, TokenMixer


def mix_with_class_token(
    adapter: ResolutionAdapter,
    mixer: TokenMixer,
    x: Tensor,
    size: tuple[int, int],
    canvas: Canvas | None = None,
) -> Tensor:
    """Mix a map and its class token, for mixers that take 1 + N tokens.

    Where the adapter cuts the map into parts, each part meets the class token, and the
    class token becomes the mean of what the parts make of it that hold tokens of the image.

    Args:
        adapter: The resolution adapter.
        mixer: A token mixer, (B, P, 1 + N, C) -> (B, P, 1 + N, C).
        x: Tokens (B, 1 + H W, C), the class token first.
        size: (H, W).
        canvas: The images on the map; None if they fill it.

    Returns:
        Tokens (B, 1 + H W, C).
    """
    token, tokens = x[:, None, :1], x[:, 1:].unflatten(1, size)

    def mix(parts: Tensor, mask: Tensor | None) -> Tensor:
        nonlocal token
        parts = torch.cat([token.expand(-1, parts.shape[1], -1, -1), parts], dim=2)
        if mask is None:
            mixed = mixer(parts, None)
            token = mixed[:, :, :1].mean(1)
        else:
            mixed = mixer(parts, F.pad(mask, (1, 0), value=True))
            used = mask.any(-1)[..., None, None]
            token = (mixed[:, :, :1] * used).sum(1) / used.sum(1)
        return mixed[:, :, 1:]

    mixed = adapter.apply(mix, tokens, canvas)
    return torch.cat([token, mixed.flatten(1, 2)], dim=1)
