"""mmpretrain, OpenMMLab's package of classifiers, with which backbones are pre-trained."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch

_declared = []  # operators, which last as long as what declared them


def require_mmpretrain() -> None:
    """Import what a config of mmpretrain builds.

    Raises:
        ImportError: if it is not installed, or does not import. The message says what to do.
    """
    find_reference()
    missing = [name for name in ('mmpretrain', 'torchvision') if find_spec(name) is None]
    if missing:
        raise ImportError(
            f'this config trains a classifier, which needs {" and ".join(missing)}: '
            'pip install onedl-mmpretrain torchvision'
        )
    mend_torchvision()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            for name in ('models', 'datasets', 'engine', 'evaluation', 'visualization'):
                import_module(f'mmpretrain.{name}')
    except (ImportError, TypeError) as error:  # a TypeError where transformers 5 lacks a class
        raise ImportError(
            f'mmpretrain does not import: {error}. With transformers 5 it does not: '
            'pip install "transformers<5"'
        ) from error


def find_reference() -> None:
    """Put the packages on the import path that `make install` keeps beside the environment."""
    folder = str(Path(sys.prefix, 'reference'))
    if folder not in sys.path:
        sys.path.append(folder)


def mend_torchvision() -> None:
    """Let PyPI's torchvision, which is for CUDA, import beside a CPU build of torch.

    At its import it extends two operators that its CUDA library alone declares.
    """
    try:
        import_module('torchvision')
    except RuntimeError:
        library = torch.library.Library('torchvision', 'DEF')
        library.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        library.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        _declared.append(library)
        import_module('torchvision')
