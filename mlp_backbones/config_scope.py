"""Lets `_base_ = 'mlp_backbones::gmlp_maskrcnn_coco.py'` resolve in any config."""

from functools import wraps

import mmengine.config.config
import mmengine.config.utils
import mmengine.hub.hub
from mmengine.config.utils import MODULE2PACKAGE

NAME = 'mlp_backbones'
# mmengine wants a distribution or a module. Upstream looks for an editable distribution's
# files in site-packages, in vain; a module is found wherever it is.
MODULE = 'mlp_backbones.registry'


def register_config_scope() -> None:
    """Tell mmengine that the package carries configs, in its folder `.mim`."""
    if NAME in MODULE2PACKAGE:
        return
    MODULE2PACKAGE[NAME] = MODULE

    # mmengine asks for a folder in the name ('mmdet::faster_rcnn/...'), but our main
    # configs lie at the top.
    resolve = mmengine.config.utils._get_package_and_cfg_path

    @wraps(resolve)
    def resolve_top_level(cfg_path: str) -> tuple[str, str]:
        package, _, name = cfg_path.partition('::')
        if package == NAME and name and '/' not in name:
            return MODULE, name
        return resolve(cfg_path)

    for module in (mmengine.config.utils, mmengine.config.config, mmengine.hub.hub):
        module._get_package_and_cfg_path = resolve_top_level
