"""Packages that tests compare with, such as timm, the reference of the published models.

`make install` puts them with torchvision into `.venv/reference`, off the import path of everything
else; tools/install.sh says why.
"""

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from mlp_backbones.engine.classification import find_reference, mend_torchvision


def import_reference(name: str) -> ModuleType:
    """A package of the reference folder. Missing, it skips the test, or fails it in CI."""
    find_reference()
    if find_spec(name) is None:
        message = f'{name} is not in {Path(sys.prefix, "reference")}; `make install` puts it there'
        (pytest.fail if 'CI' in os.environ else pytest.skip)(message)
    mend_torchvision()
    return import_module(name)


def import_timm() -> ModuleType:
    return import_reference('timm')
