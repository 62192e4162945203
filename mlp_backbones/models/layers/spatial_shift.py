"""The spatial shift of S2-MLP."""

from torch import Tensor, nn

# (row, column) steps of the channel groups: width, then height, then the diagonals.
DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))


class SpatialShift(nn.Module):
    """Each group of channels moves one step in a direction of its own.

    S2-MLP, sec. 3.2: four groups go +1 and -1 along the width and +1 and -1 along the
    height. Tokens that would come from beyond the border keep their own value. The
    paper's pseudo-code writes in place, where a slice overwrites what the next one
    reads; this reads from the input.

    Args:
        directions: 4, or 8 with the diagonals.
        distance: Length of a step, in tokens.
    """

    def __init__(self, directions: int = 4, distance: int = 1):
        super().__init__()
        if directions not in (4, 8):
            raise ValueError(f'shift_directions={directions!r} must be 4 or 8.')
        if not isinstance(distance, int) or distance < 1:
            raise ValueError(f'shift_distance={distance!r} must be a positive integer.')
        self.steps = [(distance * i, distance * j) for i, j in DIRECTIONS[:directions]]

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, H, W, C) -> (B, H, W, C)."""
        _, h, w, _ = x.shape
        out = x.clone()
        num = len(self.steps)
        groups = zip(x.tensor_split(num, -1), out.tensor_split(num, -1), self.steps, strict=True)
        for source, target, (i, j) in groups:
            if abs(i) < h and abs(j) < w:
                (to_i, from_i), (to_j, from_j) = _slices(i, h), _slices(j, w)
                target[:, to_i, to_j] = source[:, from_i, from_j]
        return out

    def extra_repr(self) -> str:
        return f'steps={self.steps}'


def _slices(step: int, n: int) -> tuple[slice, slice]:
    """Where on an axis of length n a shift by ``step`` writes, and where it reads."""
    low, high = max(step, 0), n + min(step, 0)
    return slice(low, high), slice(low - step, high - step)
