"""Parameters and multiply-accumulates (MACs) of backbones and of whole models.

Models are counted on the meta device, where tensors have shapes and no memory, so that the
largest preset at a detector's input size takes a second. A MAC is one multiplication and
one addition. Matrix products, convolutions and both products of attention are counted;
norms, activations, softmax, shifts, additions and copies are not. Papers call them "FLOPs" (gMLP's
table 1 alone counts both operations). timm's GMACs have the same parts and
add 5 per element of a LayerNorm.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


class Complexity(NamedTuple):
    """Parameters and multiply-accumulates, in units."""

    params: int
    macs: int


class Published(NamedTuple):
    """What a paper or timm prints for a model at 224 x 224."""

    params: float  # millions
    gmacs: float | None
    source: str
    has_head: bool = True  # whether a 1000-way linear head is among the parameters


SWIN = {
    'tiny': Published(28, 4.5, 'target: Swin-T'),
    'small': Published(50, 8.7, 'target: Swin-S'),
    'base': Published(88, 15.4, 'target: Swin-B'),
}

# By class and preset. timm: results/benchmark-infer-amp-nchw-pt291-cu128-4090.csv of its
# repository. fvcore: sail-sg/poolformer's README, which adds 5 per element of a norm. Of pyramids
# that are no published models, the size that they were made for.
PUBLISHED = {
    ('PlainGMLP', 'ti16'): Published(5.87, 1.34, 'timm'),
    ('PlainGMLP', 's16'): Published(19.42, 4.42, 'timm'),
    ('PlainGMLP', 'b16'): Published(73.08, 15.78, 'timm'),
    ('PlainMLPMixer', 's32'): Published(19.10, 1.00, 'timm'),
    ('PlainMLPMixer', 's16'): Published(18.53, 3.79, 'timm'),
    ('PlainMLPMixer', 'b32'): Published(60.29, 3.24, 'timm'),
    ('PlainMLPMixer', 'b16'): Published(59.88, 12.62, 'timm'),
    ('PlainMLPMixer', 'l32'): Published(206.94, 11.27, 'timm'),
    ('PlainMLPMixer', 'l16'): Published(208.20, 44.60, 'timm'),
    ('PlainMLPMixer', 'h14'): Published(431, None, 'paper, table 1', has_head=False),
    ('PlainResMLP', 's12'): Published(15.35, 3.01, 'timm'),
    ('PlainResMLP', 's24'): Published(30.02, 5.96, 'timm'),
    ('PlainResMLP', 's36'): Published(44.69, 8.91, 'timm'),
    ('PlainResMLP', 'b24'): Published(115.7, 23.0, 'paper, table 1'),
    ('PlainResMLP', 'b24_8'): Published(129.14, 100.23, 'timm'),
    ('PlainS2MLP', 'wide'): Published(71, 14.0, 'paper', has_head=False),
    ('PlainS2MLP', 'deep'): Published(51, 10.5, 'paper, in 2^20', has_head=False),
    ('PlainViT', 'ti'): Published(5.72, 1.26, 'timm'),
    ('PlainViT', 's'): Published(22.05, 4.61, 'timm'),
    ('PlainViT', 'b'): Published(86.57, 17.58, 'timm'),
    ('PoolFormer', 's12'): Published(12, 1.8, 'fvcore'),
    ('PoolFormer', 's24'): Published(21, 3.4, 'fvcore'),
    ('PoolFormer', 's36'): Published(31, 5.0, 'fvcore'),
    ('PoolFormer', 'm36'): Published(56, 8.8, 'fvcore'),
    ('PoolFormer', 'm48'): Published(73, 11.6, 'fvcore'),
    ('ConvMLP', 's'): Published(9.0, 2.4, 'authors'),
    ('ConvMLP', 'm'): Published(17.4, 3.9, 'authors'),
    ('ConvMLP', 'l'): Published(42.7, 9.9, 'authors'),
    **{
        (c, a): p
        for c in ('GMLP', 'MLPMixer', 'ResMLP', 'S2MLP', 'ShiftGMLP')
        for a, p in SWIN.items()
    },
}

# The proposals that mmdet's own FLOPs of two-stage detectors stand for.
NUM_ROIS = {'bbox_head': 1000, 'mask_head': 100}


def count_params(module: nn.Module) -> int:
    """Number of parameters, frozen ones and those of all parts included."""
    return sum(p.numel() for p in module.parameters())


def count_macs(function: Callable, *args) -> int:
    """Multiply-accumulates of ``function(*args)``, on any device.

    On a CPU or a GPU an attention kernel that FlopCounterMode does not know counts as
    nothing; on the meta device attention is two matrix products.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function(*args)
    return counter.get_total_flops() // 2


def measure_backbone(backbone: nn.Module, size: tuple[int, int]) -> Complexity:
    """Parameters and MACs of a backbone for one image of ``size`` (H, W) in pixels."""
    backbone = _on_meta(backbone)
    return Complexity(count_params(backbone), count_macs(backbone, _image(backbone, size)))


def measure_model(model: nn.Module, size: tuple[int, int]) -> dict[str, Complexity]:
    """Parameters and MACs of each part of a detector or segmentor, in the order of its use.

    At inference, for one image of ``size`` (H, W). The second stage of a detector is counted
    for 1000 boxes and 100 masks, whatever its test_cfg keeps. RoIAlign and NMS are not
    counted. A part that only training uses has 0 MACs. With Swin-T this gives the 267 and
    945 G of its authors for Mask R-CNN at 800 x 1280 and UperNet at 512 x 2048.

    Raises:
        ValueError: if the model has parts that cannot be counted one by one.
    """
    model = _on_meta(model)
    parts: dict[str, Complexity] = {}

    def run(name: str, module: nn.Module, x):
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            x = module(x)
        parts[name] = Complexity(count_params(module), counter.get_total_flops() // 2)
        return x

    x = run('backbone', model.backbone, _image(model.backbone, size))
    if getattr(model, 'neck', None) is not None:
        x = run('neck', model.neck, x)
    reason = 'it has other parts too'
    try:
        for name in ('decode_head', 'rpn_head', 'bbox_head'):
            if getattr(model, name, None) is not None:
                run(name, getattr(model, name), x)
        if getattr(model, 'roi_head', None) is not None:
            for name, head, regions in _roi_heads(model.roi_head):
                run(name, head, regions)
    except (AttributeError, NotImplementedError, TypeError) as error:
        reason = str(error)
    if getattr(model, 'auxiliary_head', None) is not None:
        parts['auxiliary_head'] = Complexity(count_params(model.auxiliary_head), 0)
    if sum(part.params for part in parts.values()) != count_params(model):
        raise ValueError(
            f'a {type(model).__name__} cannot be counted part by part beyond '
            f'{", ".join(parts)}: {reason}.'
        )
    return parts


def _roi_heads(roi_head: nn.Module):
    """Name, module and input of each head of the second stage (a cascade has several)."""
    for name, num in NUM_ROIS.items():
        heads = getattr(roi_head, name, None)
        if heads is None:
            continue
        extractors = getattr(roi_head, name.replace('head', 'roi_extractor'))
        if not isinstance(heads, nn.ModuleList):
            heads, extractors = [heads], [extractors]
        for i, (head, extractor) in enumerate(zip(heads, extractors, strict=True)):
            side = extractor.roi_layers[0].output_size
            regions = torch.empty(num, extractor.out_channels, *side, device='meta')
            yield f'{name}.{i}' if len(heads) > 1 else name, head, regions


def _on_meta(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in evaluation mode, without its memory."""
    # without gradients: FlopCounterMode fails on views of parameters that need them
    model = copy.deepcopy(model).to('meta').requires_grad_(False)
    model.eval()  # mmdet's SwinTransformer returns None here
    return model


def _image(backbone: nn.Module, size: tuple[int, int]) -> Tensor:
    if len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
        raise ValueError(f'size={size!r} must be the height and width of an image, in pixels.')
    return torch.empty(1, getattr(backbone, 'in_channels', 3), *size, device='meta')
