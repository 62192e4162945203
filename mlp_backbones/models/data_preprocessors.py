"""The data preprocessors of mmdet and mmseg, telling our backbones the size of each image.

A data preprocessor pads the images of a batch to one canvas; a detector then hands the
canvas to its backbone and nothing else. These leave the sizes of the images on the tensor,
as ``inputs.valid_sizes``, where :meth:`Backbone.valid_sizes` reads them: the features of an
image then depend neither on its batch-mates nor on its padding (docs/resolution.md).

They are functions, so that a code base is needed only where a config names it.
"""

from __future__ import annotations

from torch import nn

from ..registry import MODELS
from .layers import check_valid_sizes


@MODELS.register_module()
def DetDataPreprocessor(**settings) -> nn.Module:
    """mmdet's DetDataPreprocessor, of the same settings, with the sizes of the images."""
    return _with_valid_sizes('mmdet.DetDataPreprocessor', settings)


@MODELS.register_module()
def SegDataPreProcessor(**settings) -> nn.Module:
    """mmseg's SegDataPreProcessor, of the same settings, with the sizes of the images."""
    return _with_valid_sizes('mmseg.SegDataPreProcessor', settings)


def _with_valid_sizes(kind: str, settings: dict) -> nn.Module:
    data_preprocessor = MODELS.build(dict(type=kind, **settings))
    data_preprocessor.register_forward_hook(leave_valid_sizes)
    return data_preprocessor


def leave_valid_sizes(module: nn.Module, args: tuple, output: dict) -> None:
    """Leave the ``img_shape`` of the data samples on the batch that they belong to, as a tensor
    (B, 2) on its device; nothing if all images fill their canvas.
    """
    samples, x = output['data_samples'], output['inputs']
    if samples is None or not all('img_shape' in sample for sample in samples):
        return
    sizes = check_valid_sizes([sample.img_shape[:2] for sample in samples], x)
    if sizes is not None:
        x.valid_sizes = sizes
