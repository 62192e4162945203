"""Data preprocessors that tell our backbones the size of each image.

A data preprocessor pads the images of a batch to one canvas; a detector then hands the
canvas to its backbone and nothing else. These leave the sizes of the images on the tensor,
as ``inputs.valid_sizes``, where :meth:`Backbone.valid_sizes` reads them: the features of an
image then depend neither on its batch-mates nor on its padding (docs/resolution.md).

:class:`ValidSizes` does that for any data preprocessor; ``DetDataPreprocessor`` and
``SegDataPreProcessor`` are those of mmdet and mmseg with it. Both are made when they are first
asked for, so that a code base is needed only where it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module

from torch import Tensor, nn

from ..environment import require
from ..registry import MODELS
from .layers import check_valid_sizes, leave_sizes

CODE_BASES = {'DetDataPreprocessor': 'mmdet', 'SegDataPreProcessor': 'mmseg'}

Size = tuple[int, int]


class ValidSizes:
    """What a data preprocessor inherits from first, to tell our backbones the sizes of the images.

    The sizes are those of the images that it is given and, where it resizes them as a batch and
    their ``img_shape`` with them (mmdet's ``batch_augments``), in that proportion. Nothing is left
    where all of them fill the canvas, or where it returns no canvas (B, C, H, W).

    Example:
        >>> from mmdet.models import BoxInstDataPreprocessor
        >>> class Mine(ValidSizes, BoxInstDataPreprocessor): ...
    """

    def forward(self, data: dict, training: bool = False) -> dict:
        held = [tuple(image.shape[-2:]) for image in data['inputs']]
        before = _img_shapes(data)
        output = super().forward(data, training)
        canvas = output['inputs']
        if isinstance(canvas, Tensor) and canvas.dim() == 4 and len(canvas) == len(held):
            after = _img_shapes(output)
            sizes = check_valid_sizes(list(map(_on_canvas, held, before, after)), canvas)
            if sizes is not None:
                leave_sizes(canvas, sizes)
        return output


def _img_shapes(data: dict) -> list[Size | None]:
    """What the data samples say about the images."""
    samples = data.get('data_samples')
    if not isinstance(samples, Sequence):
        return [None] * len(data['inputs'])
    shapes = [getattr(sample, 'img_shape', None) for sample in samples]
    return [None if shape is None else tuple(map(int, shape[:2])) for shape in shapes]


def _on_canvas(held: Size, before: Size | None, after: Size | None) -> Size:
    """The size of an image of size ``held``, whose ``img_shape`` has gone from before to after."""
    if after in (None, before, held):
        return held
    if before in (None, held):
        return after
    # a transform has left a wrong img_shape, and then the batch was resized
    return tuple(-(-h * new // old) for h, new, old in zip(held, after, before, strict=True))


@lru_cache
def _make_class(name: str) -> type[nn.Module]:
    code_base = CODE_BASES[name]
    require(code_base)
    base = getattr(import_module(f'{code_base}.models'), name)
    doc = f"{code_base}'s {name}, of the same settings, with the sizes of the images."
    return type(name, (ValidSizes, base), dict(__module__=__name__, __doc__=doc))


def __getattr__(name: str) -> type[nn.Module]:
    if name in CODE_BASES:
        return _make_class(name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


@MODELS.register_module(name='DetDataPreprocessor')
def _build_det(**settings) -> nn.Module:
    return _make_class('DetDataPreprocessor')(**settings)


@MODELS.register_module(name='SegDataPreProcessor')
def _build_seg(**settings) -> nn.Module:
    return _make_class('SegDataPreProcessor')(**settings)
