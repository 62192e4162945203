"""Token mixing with a class token beside the map."""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor

from ..layers import ResolutionAdapter, Sizes, per_image


def mix_with_class_token(
    adapter: ResolutionAdapter, mixer, x: Tensor, size: tuple[int, int], valid: Sizes = None
) -> Tensor:
    """Mix a map and its class token, for mixers that take 1 + N tokens.

    Where the adapter cuts the map into parts, each part meets the class token, and the
    class token becomes the mean of what the parts make of it.

    Args:
        adapter: The resolution adapter.
        mixer: A token mixer, (B, 1 + N, C) -> (B, 1 + N, C).
        x: Tokens (B, 1 + H W, C), the class token first.
        size: (H, W).
        valid: Sizes in tokens of the images on this canvas, each mixed as if it were alone.

    Returns:
        Tokens (B, 1 + H W, C).
    """
    if valid is not None and len(x) > 1:
        images = zip(x.split(1), valid, strict=True)
        return torch.cat(
            [mix_with_class_token(adapter, mixer, image, size, [v]) for image, v in images]
        )
    if valid is None and (adapter.mode == 'global' or tuple(size) == (adapter.grid,) * 2):
        return mixer(x, size)  # there is one part
    token, tokens = x[:, :1], x[:, 1:].unflatten(1, size)
    mixed_tokens = []

    def mix_part(part: Tensor, part_size: tuple[int, int]) -> Tensor:  # (B P, N, C)
        repeated = repeat(token, 'b n c -> (b p) n c', p=len(part) // len(token))
        mixed = mixer(torch.cat([repeated, part], dim=1), part_size)
        mixed_tokens.append(rearrange(mixed[:, :1], '(b p) n c -> b p n c', b=len(token)))
        return mixed[:, 1:]

    mixed = per_image(lambda tokens: adapter(mix_part, tokens), tokens, valid)
    return torch.cat([torch.cat(mixed_tokens, dim=1).mean(1), mixed.flatten(1, 2)], dim=1)
