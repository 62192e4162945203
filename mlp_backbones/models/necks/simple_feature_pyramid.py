"""The simple feature pyramid: several maps from the last one of a plain backbone.

Exploring Plain Vision Transformer Backbones for Object Detection, Yanghao Li, Hanzi Mao,
Ross Girshick, Kaiming He, ECCV 2022, https://arxiv.org/abs/2203.16527 (section 3 and
figure 2c for the pyramid, appendix A.2 for its layers); official code:
https://github.com/facebookresearch/detectron2/blob/main/detectron2/modeling/backbone/vit.py
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from ...registry import MODELS
from ..backbones.base import check_positive


@MODELS.register_module()
class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of a map (B, C, H, W), at each position by itself.

    In configs: ``norm_cfg=dict(type='mlp_backbones.LayerNorm2d', eps=1e-6)``.
    """

    # a subclass of nn.LayerNorm, so that mmengine's norm_decay_mult knows it for a norm

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


NORM_CFG = dict(type='mlp_backbones.LayerNorm2d', eps=1e-6)
ACT_CFG = dict(type='GELU')


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """ViTDet's neck: a level of each of ``out_strides`` from one map of ``in_stride``.

    Each level rescales the map by itself, there is no path between levels:

    - a finer one by deconvolutions (2 x 2, stride 2, half the channels), one per octave,
      with norm and activation between them;
    - that of ``in_stride`` not at all;
    - a coarser one by 2 x 2 max-pooling of stride 2, one per octave;

    then come a 1 x 1 and a 3 x 3 convolution to ``out_channels``, each with a norm.

    Sizes follow the map, which the neck knows, and not the image, which it doesn't: from
    a map of height h, a level k octaves finer has height ``2**k * h`` and one k octaves
    coarser ``ceil(h / 2**k)``, likewise the width. Of an image of height H, a backbone's
    map has ``h = ceil(H / in_stride)``: coarser levels then have ``ceil(H / s)``, and
    finer ones too if ``in_stride`` divides H, else up to ``2**k - 1`` rows more, which
    lie beyond the image. Images padded to a multiple of ``in_stride`` (``pad_size_divisor``
    of mmdet's data preprocessor, 32 in its base configs) have none of those.

    Args:
        in_channels: Channels of the backbone's map.
        out_channels: Channels of every level. Default: 256.
        out_strides: Strides of the levels in pixels, rising, each ``in_stride`` times a
            power of two. Default: (4, 8, 16, 32).
        in_stride: Stride of the backbone's map, the patch size of a plain model.
            Default: 16.
        num_outs: Number of levels returned; those beyond ``out_strides`` take every
            second position of the level before, as mmdet's FPN does for the RPN (5 for
            Mask R-CNN). Default: ``len(out_strides)``.
        norm_cfg: Config of the norms, None for convolutions with a bias instead.
            Default: layer norm over channels, the paper's.
        act_cfg: Config of the activation between deconvolutions. Default: GELU.
        init_cfg: mmengine's initialisation config. Default: None, PyTorch's initial
            values, as in the official code.

    Raises:
        ValueError: for an argument, or a map, that is not as above.

    Example:
        >>> import torch
        >>> from mlp_backbones.models.necks import SimpleFeaturePyramid
        >>> neck = SimpleFeaturePyramid(in_channels=384, num_outs=5)
        >>> [tuple(m.shape[1:]) for m in neck(torch.rand(1, 384, 13, 21))]
        [(256, 52, 84), (256, 26, 42), (256, 13, 21), (256, 7, 11), (256, 4, 6)]
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        out_strides: Sequence[float] = (4, 8, 16, 32),
        in_stride: int = 16,
        num_outs: int | None = None,
        norm_cfg: dict | None = NORM_CFG,
        act_cfg: dict = ACT_CFG,
        init_cfg: dict | list[dict] | None = None,
    ):
        super().__init__(init_cfg)
        self.in_channels = check_positive('in_channels', in_channels)
        self.out_channels = check_positive('out_channels', out_channels)
        octaves = octaves_between(in_stride, out_strides)
        finest = 2 ** max(-octaves[0], 0)
        if in_channels % finest:
            raise ValueError(
                f'in_channels={in_channels} must be a multiple of {finest}: the channels are '
                f'halved at each octave from in_stride={in_stride} up to the level of stride '
                f'{out_strides[0]}.'
            )
        self.num_outs = len(octaves) if num_outs is None else num_outs
        if not isinstance(self.num_outs, int) or self.num_outs < len(octaves):
            raise ValueError(
                f'num_outs={num_outs!r} must be an integer of at least {len(octaves)}, the '
                f'number of out_strides={tuple(out_strides)}.'
            )
        self.levels = nn.ModuleList(self._make_level(k, norm_cfg, act_cfg) for k in octaves)

    def _make_level(self, octaves: int, norm_cfg: dict | None, act_cfg: dict) -> nn.Sequential:
        def norm(channels: int) -> list[nn.Module]:
            return [build_norm_layer(norm_cfg, channels)[1]] if norm_cfg else []

        layers = [nn.MaxPool2d(2, stride=2, ceil_mode=True) for _ in range(octaves)]
        dim, out_dim, bias = self.in_channels, self.out_channels, not norm_cfg
        for i in range(-octaves):
            if i:
                layers += [*norm(dim), build_activation_layer(act_cfg)]
            layers.append(nn.ConvTranspose2d(dim, dim // 2, kernel_size=2, stride=2))
            dim //= 2
        layers += [nn.Conv2d(dim, out_dim, kernel_size=1, bias=bias), *norm(out_dim)]
        layers += [nn.Conv2d(out_dim, out_dim, 3, padding=1, bias=bias), *norm(out_dim)]
        return nn.Sequential(*layers)

    def forward(self, inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One map (B, in_channels, h, w), alone or in a sequence -> ``num_outs`` maps of
        ``out_channels``, contiguous in memory.
        """
        x = self.check_input(inputs)
        outs = [level(x) for level in self.levels]
        while len(outs) < self.num_outs:
            outs.append(F.max_pool2d(outs[-1], kernel_size=1, stride=2))
        return tuple(out.contiguous() for out in outs)  # mmcv's RoIAlign ignores strides

    def check_input(self, inputs: Tensor | Sequence[Tensor]) -> Tensor:
        """Return the map in ``inputs``, or raise ValueError or TypeError if there is none."""
        if isinstance(inputs, (tuple, list)):
            if len(inputs) != 1:
                raise ValueError(
                    f'SimpleFeaturePyramid takes one map, not {len(inputs)}; let out_indices of '
                    "the backbone name only the one of the neck's in_stride."
                )
            inputs = inputs[0]
        if not isinstance(inputs, Tensor):
            raise TypeError(
                'SimpleFeaturePyramid takes a map, alone or in a tuple or list, not '
                f'{type(inputs).__name__}.'
            )
        if inputs.dim() != 4 or inputs.shape[1] != self.in_channels or 0 in inputs.shape:
            raise ValueError(
                f'SimpleFeaturePyramid takes a map of shape (B, {self.in_channels}, H, W), '
                f'H and W at least 1; got {tuple(inputs.shape)}.'
            )
        return inputs


def octaves_between(in_stride: int, out_strides: Sequence[float]) -> list[int]:
    """``log2(s / in_stride)`` of each of ``out_strides``, or ValueError if one is not an
    integer.
    """
    check_positive('in_stride', in_stride)
    octaves = []
    for stride in out_strides if isinstance(out_strides, Sequence) else ():
        number = isinstance(stride, (int, float))
        mantissa, exponent = math.frexp(stride / in_stride) if number else (0, 0)
        if mantissa != 0.5:  # a power of two is 0.5 * 2**exponent
            raise ValueError(
                f'the stride {stride!r} of out_strides={tuple(out_strides)} must be '
                f'in_stride={in_stride} times a power of two.'
            )
        octaves.append(exponent - 1)
    if not octaves or octaves != sorted(set(octaves)):
        raise ValueError(
            f'out_strides={out_strides!r} must be a sequence of distinct strides in rising order.'
        )
    return octaves
