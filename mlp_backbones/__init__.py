"""All-MLP vision models as backbones for detection and segmentation in OpenMMLab."""

from .environment import check_environment

__version__ = '0.1.0'

check_environment()  # before anything imports mmengine or mmcv

from . import models  # noqa: E402, F401  (registers the classes)
from .config_scope import config_path, register_config_scope  # noqa: E402, F401

register_config_scope()
