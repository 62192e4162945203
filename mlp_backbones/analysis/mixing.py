"""Token-mixing weights as images: what a token or a hidden unit takes from all places of a map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mlp_backbones.models.backbones.mlp_mixer import TokenMlp
from mlp_backbones.models.layers import AnyResolution, Region, TokenLinear, make_region


def mixing_layers(model: nn.Module) -> dict[str, AnyResolution]:
    """The layers that mix tokens by weights, by name: gMLP's spatial gates, the linear layers of
    ResMLP and ShiftGMLP, MLP-Mixer's token mixing. Attention, shifts, pooling and convolutions
    have no such weights.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, AnyResolution) and isinstance(module.f, (TokenLinear, TokenMlp))
    }


def native_region(layer: AnyResolution) -> Region:
    """The map of the layer's own grid."""
    g, weight = layer.resolution.grid, next(layer.parameters())
    return make_region(weight.new_zeros(1, g, g, 1), None, g, layer.resolution.interpolation)


def filters(layer: AnyResolution, region: Region, places: Sequence[tuple[float, float]]) -> Tensor:
    """Weights of a layer on a map, as the layer applies them.

    Of a linear layer, the rows of ``U K D`` of the tokens at ``places``; at the layer's own grid
    those of K. Of MLP-Mixer's token mixing the first layer's rows ``W_1 D``, of as many hidden
    units as there are places, evenly spread. In the modes 'window' and 'grid' they are zero
    outside the tokens that are mixed with one another.

    Args:
        layer: One of :func:`mixing_layers`.
        region: A map of one image, as the layer was called with, or :func:`native_region`.
        places: Row and column of each, from 0 to 1.

    Returns:
        (len(places), H, W).
    """
    weight = next(layer.parameters())
    with torch.enable_grad():
        x = weight.new_zeros(1, *region.size, 1).requires_grad_()
        if isinstance(layer.f, TokenLinear):
            y = layer(x, region)[0, :, :, 0]
            values = [
                y[tuple(min(int(p * n), n - 1) for p, n in zip(place, y.shape, strict=True))]
                for place in places
            ]
        else:
            parts = layer.mode(region).partition(x, region, layer.resolution.grid)
            units = layer.f.fc1(parts[0, parts.shape[1] // 2, 0])
            values = [units[i * len(units) // len(places)] for i in range(len(places))]
        rows = [torch.autograd.grad(value, x, retain_graph=True)[0] for value in values]
    return torch.cat(rows)[..., 0]
