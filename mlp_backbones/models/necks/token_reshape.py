"""Token reshaping: maps of one spatial shape turned into maps of another.

Both layers write each output token as a weighted sum over all input tokens,
``O = A X``, for any (H, W) and (H', W'); they differ in where the weights A come from.
See docs/token_reshaping.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from mmengine.model import BaseModule
from torch import Tensor, nn

from ...checkpoints import wrong_shape
from ...registry import MODELS
from ..layers import resample
from ..layers.resampling import check_interpolation

Size = tuple[int, int]


class TokenReshape(BaseModule):
    """What both layers share: one layer per level, checks, and the form of the output.

    A subclass fills ``self.levels`` with modules (B, C, H, W) -> (B, C', H', W').

    Args:
        in_size: (H, W) of the maps that the weights are made for, or one per level.
        out_size: (H', W') that they are turned into, or one per level.
        interpolation: 'bilinear' or 'bicubic', for maps of other sizes.
        init_cfg: mmengine's initialisation config.

    Raises:
        ValueError: for a size that is not a pair of positive integers, different numbers of
            levels, or an unknown interpolation.
    """

    def __init__(
        self,
        in_size: Size | Sequence[Size],
        out_size: Size | Sequence[Size],
        interpolation: str,
        init_cfg: dict | list[dict] | None,
    ):
        super().__init__(init_cfg)
        self.in_sizes = _sizes('in_size', in_size)
        self.out_sizes = _sizes('out_size', out_size)
        if len(self.in_sizes) != len(self.out_sizes):
            raise ValueError(
                f'in_size={in_size!r} has {len(self.in_sizes)} levels and out_size={out_size!r} '
                f'has {len(self.out_sizes)}; give one size of each per level.'
            )
        self.interpolation = check_interpolation(interpolation)
        self.levels = nn.ModuleList()

    def forward(self, inputs: Tensor | Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        """Reshape a map, or the maps of all levels.

        Args:
            inputs: (B, C, H, W) where there is one level, or a sequence with such a map
                for each level.

        Returns:
            (B, C', H', W') for a map, a tuple of them for a sequence, contiguous in memory.
            An input of size (h, w) instead of ``in_size`` (H, W) gives an output of
            ``(H' h / H, W' w / W)``, rounded to the nearest integers, halves upwards, and
            at least 1.

        Raises:
            ValueError: for other numbers of maps, dimensions or channels.
            TypeError: for anything but maps of floating-point numbers.
        """
        maps = [inputs] if isinstance(inputs, Tensor) else inputs
        self.check_inputs(maps)
        # mmcv's RoIAlign reads raw memory: any other strides give it wrong numbers
        outs = tuple(level(x).contiguous() for level, x in zip(self.levels, maps, strict=True))
        return outs[0] if isinstance(inputs, Tensor) else outs

    def check_inputs(self, maps: Sequence[Tensor]) -> None:
        name = type(self).__name__
        if not isinstance(maps, (list, tuple)) or not all(isinstance(x, Tensor) for x in maps):
            raise TypeError(f'{name} takes a tensor or a sequence of tensors, not {maps!r:.80}.')
        if len(maps) != len(self.levels):
            raise ValueError(
                f'{name} has {len(self.levels)} levels and was given {len(maps)} maps; give '
                'in_size and out_size one entry for each map.'
            )
        for level, x in zip(self.levels, maps, strict=True):
            channels = getattr(level, 'in_channels', None)
            if x.dim() != 4 or 0 in x.shape or (channels and x.shape[1] != channels):
                raise ValueError(
                    f'{name} takes maps of shape (B, {channels or "C"}, H, W), H and W at least '
                    f'1; got {tuple(x.shape)}.'
                )
            if not x.is_floating_point():
                raise TypeError(f'{name} takes maps of floating-point numbers, not {x.dtype}.')

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        for name, param in self.state_dict().items():
            key = prefix + name
            if key in state_dict and state_dict[key].shape != param.shape:
                raise wrong_shape(key, state_dict[key], param)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class SpatialMLP(nn.Module):
    """One level of :class:`MLPReshape`."""

    def __init__(
        self, in_size: Size, out_size: Size, hidden: int | None, bias: bool, interpolation: str
    ):
        super().__init__()
        self.in_size = in_size
        self.out_size = out_size
        self.interpolation = interpolation
        n_in, n_out = in_size[0] * in_size[1], out_size[0] * out_size[1]
        if hidden is None:
            self.mlp = nn.Linear(n_in, n_out, bias)
        else:
            self.mlp = nn.Sequential(
                nn.Linear(n_in, hidden, bias), nn.GELU(), nn.Linear(hidden, n_out, bias)
            )

    def forward(self, x: Tensor) -> Tensor:
        size = _scaled(self.out_size, x.shape[-2:], self.in_size)
        x = _resample_map(x, self.in_size, self.interpolation)
        o = self.mlp(x.flatten(2))  # (B, C, HW) -> (B, C, H'W')
        return _resample_map(o.unflatten(2, self.out_size), size, self.interpolation)


@MODELS.register_module()
class MLPReshape(TokenReshape):
    """Learned left multiplication over space: ``O = W X + b``, W of shape (H'W', HW).

    The same data-independent weights for every image and every channel; with ``hidden``,
    ``O = W_2 gelu(W_1 X + b_1) + b_2``. With a hidden layer it is the view transformer
    of Pan et al., "Cross-view Semantic Segmentation for Sensing Surroundings", 2019,
    https://arxiv.org/abs/1906.03560 (there with ReLUs).

    An input of another size is resampled to ``in_size``, and the output to the size that
    :meth:`TokenReshape.forward` states: ``U (W D x + b)``. At ``in_size`` there is no
    resampling at all. W has ``HW x H'W'`` entries: use it on coarse maps.

    Args:
        in_size: (H, W) of the maps that W is made for, or one such pair per level.
        out_size: (H', W') that they are turned into, or one such pair per level.
        hidden: Tokens of the hidden layer, the same for all levels or one number per
            level. Default: None, no hidden layer.
        bias: Whether there are biases. Default: True.
        interpolation: 'bilinear' or 'bicubic', for maps of other sizes than ``in_size``.
            Default: 'bilinear'.
        init_cfg: mmengine's initialisation config. Default: None.

    Raises:
        ValueError: for sizes or numbers that are not positive integers, or different
            numbers of levels.

    Example:
        >>> import torch
        >>> from mlp_backbones.models.necks import MLPReshape
        >>> MLPReshape(in_size=(16, 32), out_size=(24, 12))(torch.rand(2, 64, 16, 32)).shape
        torch.Size([2, 64, 24, 12])
    """

    def __init__(
        self,
        in_size: Size | Sequence[Size],
        out_size: Size | Sequence[Size],
        hidden: int | Sequence[int] | None = None,
        bias: bool = True,
        interpolation: str = 'bilinear',
        init_cfg: dict | list[dict] | None = None,
    ):
        super().__init__(in_size, out_size, interpolation, init_cfg)
        num = len(self.in_sizes)
        hiddens = [None] * num if hidden is None else _per_level('hidden', hidden, num)
        for sizes in zip(self.in_sizes, self.out_sizes, hiddens, strict=True):
            self.levels.append(SpatialMLP(*sizes, bias, interpolation))


class CrossAttention(nn.Module):
    """One level of :class:`CrossAttentionReshape`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        in_size: Size,
        out_size: Size,
        num_heads: int,
        head_dim: int,
        position: bool,
        interpolation: str,
    ):
        super().__init__()
        self.in_channels = in_channels
        self.in_size = in_size
        self.out_size = out_size
        self.num_heads = num_heads
        self.interpolation = interpolation
        # no bias: the same number added to all logits of a query changes nothing
        self.key = nn.Linear(in_channels, num_heads * head_dim, bias=False)
        self.value = nn.Linear(in_channels, out_channels)
        # Q and P start from one encoding, so that each query starts at the keys of its own
        # place, and what one token learns moves its neighbours.
        cycles = max(0.5, max(in_size) / 4)
        self.queries = self._encoding(out_size, cycles, head_dim)
        self.positions = self._encoding(in_size, cycles, head_dim) if position else None

    def _encoding(self, size: Size, cycles: float, dim: int) -> nn.Parameter:
        """The same sines and cosines for each head, (heads, H, W, d)."""
        encoding = sine_encoding(size, cycles, dim)
        return nn.Parameter(encoding.expand(self.num_heads, -1, -1, -1).clone())

    def forward(self, x: Tensor) -> Tensor:
        in_size = x.shape[-2:]
        out_size = _scaled(self.out_size, in_size, self.in_size)
        x = rearrange(x, 'b c h w -> b (h w) c')
        k = rearrange(self.key(x), 'b n (m d) -> b m n d', m=self.num_heads)
        v = rearrange(self.value(x), 'b n (m d) -> b m n d', m=self.num_heads)
        if self.positions is not None:
            k = k + resample(self.positions, in_size, self.interpolation).flatten(1, 2)
        q = resample(self.queries, out_size, self.interpolation).flatten(1, 2)
        q = q.expand(len(x), -1, -1, -1).to(v)  # autocast of torch 2.1 on a CPU leaves it as it is
        o = F.scaled_dot_product_attention(q, k.to(v), v)  # softmax(Q K^T / sqrt(d)) V
        return rearrange(o, 'b m (h w) d -> b (m d) h w', h=out_size[0])


@MODELS.register_module()
class CrossAttentionReshape(TokenReshape):
    """Cross-attention with learned queries: ``O = softmax(Q K^T / sqrt(d)) V``.

    Each of the H'W' output tokens has a learned query; keys ``K = X W_K + P`` and values
    ``V = X W_V + b_V`` come from the input, so that the weights depend on the image. Each
    head has its own Q, P and ``out_channels / num_heads`` channels of the output. P are
    learned position encodings of the input tokens; without them the output does not depend
    on the order of the input tokens. Q and P start as sines and cosines of the place in the
    map, so that the layer starts as a blurred resize; from random values it learns a fixed
    geometry far more slowly (docs/token_reshaping.md).

    Output queries: Jaegle et al., "Perceiver IO", 2021, https://arxiv.org/abs/2107.14795.
    Map-view queries on camera images: Zhou and Kraehenbuehl, "Cross-view Transformers for
    real-time Map-view Semantic Segmentation", CVPR 2022, https://arxiv.org/abs/2205.02833
    (there with position encodings from the calibration of the cameras).

    For an input of another size than ``in_size``, P is resampled to it, and Q to the
    output size that :meth:`TokenReshape.forward` states; the input is not resampled. The
    attention matrix has ``hw x h'w'`` entries per head and image: use it on coarse maps.

    Args:
        in_channels: Channels C of the input, the same for all levels or one per level.
        in_size: (H, W) of the maps that P is made for, or one such pair per level.
        out_size: (H', W') that they are turned into, or one such pair per level.
        out_channels: Channels C' of the output, the same for all levels or one per level.
            Default: None, those of the input.
        num_heads: Number of heads; divides ``out_channels``. Default: 1.
        head_dim: Width d of a query and a key, a multiple of 4. Default: 64.
        position: Whether keys have position encodings. Default: True.
        interpolation: 'bilinear' or 'bicubic', for maps of other sizes than ``in_size``.
            Default: 'bilinear'.
        init_cfg: mmengine's initialisation config. Default: None.

    Raises:
        ValueError: for sizes or numbers that are not positive integers, different numbers
            of levels, heads that do not divide the output channels, or a ``head_dim``
            that is not a multiple of 4.

    Example:
        >>> import torch
        >>> from mlp_backbones.models.necks import CrossAttentionReshape
        >>> layer = CrossAttentionReshape(64, in_size=(16, 32), out_size=(24, 12), num_heads=4)
        >>> layer(torch.rand(2, 64, 16, 32)).shape
        torch.Size([2, 64, 24, 12])
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        in_size: Size | Sequence[Size],
        out_size: Size | Sequence[Size],
        out_channels: int | Sequence[int] | None = None,
        num_heads: int = 1,
        head_dim: int = 64,
        position: bool = True,
        interpolation: str = 'bilinear',
        init_cfg: dict | list[dict] | None = None,
    ):
        super().__init__(in_size, out_size, interpolation, init_cfg)
        num = len(self.in_sizes)
        in_channels = _per_level('in_channels', in_channels, num)
        out_channels = (
            in_channels if out_channels is None else _per_level('out_channels', out_channels, num)
        )
        (num_heads,) = _per_level('num_heads', num_heads, 1)
        (head_dim,) = _per_level('head_dim', head_dim, 1)
        if head_dim % 4:
            raise ValueError(f'head_dim={head_dim} must be a multiple of 4.')
        for channels in out_channels:
            if channels % num_heads:
                raise ValueError(
                    f'num_heads={num_heads} does not divide the {channels} output channels.'
                )
        for sizes in zip(in_channels, out_channels, self.in_sizes, self.out_sizes, strict=True):
            self.levels.append(
                CrossAttention(*sizes, num_heads, head_dim, position, interpolation)
            )


def sine_encoding(size: Size, cycles: float, dim: int) -> Tensor:
    """Sines and cosines of the place in a map, half of them of the row, half of the column.

    Places are relative, from 0 to 1, so that two grids of one scene share their encoding.

    Args:
        size: (H, W).
        cycles: Periods of the fastest wave over the map; the slowest has half a period.
        dim: Number of waves, a multiple of 4.

    Returns:
        Tensor of shape (H, W, dim), of mean square 1.
    """
    frequency = 2 * math.pi * torch.logspace(math.log2(0.5), math.log2(cycles), dim // 4, base=2)
    phases = [((torch.arange(n) + 0.5) / n)[:, None] * frequency for n in size]
    rows, columns = (torch.cat([p.sin(), p.cos()], dim=1) for p in phases)  # (n, dim / 2)
    h, w = size
    rows, columns = rows[:, None].expand(h, w, -1), columns[None].expand(h, w, -1)
    return math.sqrt(2) * torch.cat([rows, columns], dim=2)


def _resample_map(x: Tensor, size: Size, interpolation: str) -> Tensor:
    """(B, C, H, W) -> (B, C, *size); ``x`` itself where the size stays."""
    return resample(x.permute(0, 2, 3, 1), size, interpolation).permute(0, 3, 1, 2)


def _scaled(out_size: Size, size: Size, in_size: Size) -> Size:
    """``out_size * size / in_size`` for each axis, rounded half up, at least 1."""
    h, w = (
        max(1, (2 * o * n + i) // (2 * i)) for o, n, i in zip(out_size, size, in_size, strict=True)
    )
    return h, w


def _is_positive(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_size(value) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_positive, value))


def _sizes(name: str, value: Size | Sequence[Size]) -> tuple[Size, ...]:
    """The sizes of all levels, from one size or a sequence of them."""
    sizes = [value] if _is_size(value) else value
    if not isinstance(sizes, (list, tuple)) or not sizes or not all(map(_is_size, sizes)):
        raise ValueError(
            f'{name}={value!r} must be a pair of positive integers (height, width), or a '
            'sequence of such pairs, one per level.'
        )
    return tuple(tuple(size) for size in sizes)


def _per_level(name: str, value: int | Sequence[int], num: int) -> list[int]:
    """One positive integer for each of ``num`` levels."""
    values = list(value) if isinstance(value, (list, tuple)) else [value] * num
    if len(values) != num or not all(map(_is_positive, values)):
        raise ValueError(
            f'{name}={value!r} must be a positive integer, or a sequence with one for each of '
            f'the {num} levels.'
        )
    return values
