"""Channel mixing."""

from torch import nn


class Mlp(nn.Sequential):
    """``W2 gelu(W1 x + b1) + b2`` over channels, at every position alike.

    Args:
        dim: Channels of the tokens.
        hidden_dim: Channels between the two layers.
    """

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)
        for fc in (self.fc1, self.fc2):
            nn.init.trunc_normal_(fc.weight, std=0.02)
            nn.init.zeros_(fc.bias)
