"""timm, the reference of the published models.

`make install` puts it with torchvision into `.venv/reference`, off the import path of
everything else: the torchvision of PyPI does not import beside a CPU build of torch,
and mmengine imports it wherever it finds it.
"""

import os
import sys
from functools import lru_cache
from pathlib import Path

import pytest
import torch


@lru_cache
def import_timm():
    """The module timm. Missing, it skips the test, or fails it in CI."""
    folder = Path(sys.prefix, 'reference')
    if not (folder / 'timm').is_dir():
        message = f'timm is not in {folder}; `make install` puts it there'
        (pytest.fail if 'CI' in os.environ else pytest.skip)(message)
    if not torch.cuda.is_available():  # torchvision's Python code wants its operators declared
        import_timm.library = torch.library.Library('torchvision', 'DEF')
        import_timm.library.define(
            'nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'
        )
        import_timm.library.define('qnms(Tensor dets, Tensor scores, float t) -> Tensor')
    sys.path.append(str(folder))
    import timm

    return timm
