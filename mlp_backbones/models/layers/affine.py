"""ResMLP's replacement for normalisation."""

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
