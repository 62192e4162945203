"""Channel mixing."""

from torch import Tensor, nn

from .slices import by_tokens


def init_linear(*layers: nn.Linear) -> None:
    """The initial values that the papers share: normal weights of std 0.02, no bias."""
    for layer in layers:
        nn.init.trunc_normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class Mlp(nn.Module):
    """``W2 gelu(W1 x + b1) + b2`` over channels, at every position alike.

    Args:
        dim: Channels of the tokens.
        hidden_dim: Channels between the two layers.
    """

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.hidden_dim = hidden_dim
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)
        init_linear(self.fc1, self.fc2)

    def forward(self, x: Tensor) -> Tensor:
        return by_tokens(self, self.mix, x, self.hidden_dim)

    def mix(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))
