"""ResMLP's replacement for normalisation, and LayerScale."""

import torch
from torch import Tensor, nn


class Affine(nn.Module):
    """``Aff(x) = Diag(alpha) x + beta`` over channels (ResMLP, eq. 1), from the identity.

    Args:
        dim: Number of channels, the last axis of x.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(dim))
        self.beta = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.beta, self.alpha, x)


class LayerScale(nn.Module):
    """``Diag(gamma) x`` over channels (Touvron et al., ICCV 2021, eq. 4).

    Args:
        dim: Number of channels, the last axis of x.
        init: Initial value of gamma.
    """

    def __init__(self, dim: int, init: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), float(init)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma
