"""timm, the reference of the published models.

`make install` puts it with torchvision into `.venv/reference`, off the import path of
everything else: the torchvision of PyPI does not import beside a CPU build of torch,
and mmengine imports it wherever it finds it.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'tools'))

import benchmark


def import_timm():
    """The module timm. Missing, it skips the test, or fails it in CI."""
    folder = Path(sys.prefix, 'reference')
    if not (folder / 'timm').is_dir() and find_spec('timm') is None:
        message = f'timm is not in {folder}; `make install` puts it there'
        (pytest.fail if 'CI' in os.environ else pytest.skip)(message)
    return benchmark.import_timm()
