"""Lets `_base_ = 'mlp_backbones::gmlp_maskrcnn_coco.py'` resolve in any config.

mmengine lets configs inherit from its own list of packages only, so this works once
`mlp_backbones` is imported: in this package's tools, and in a program that imports it. A program
that does not, such as mmdet's `tools/train.py`, takes :func:`config_path`.
"""

from functools import wraps
from pathlib import Path

import mmengine.config.config
import mmengine.config.utils
import mmengine.hub.hub
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import is_installed

NAME = 'mlp_backbones'
# mmengine wants a distribution or a module. Upstream looks for an editable distribution's
# files in site-packages, in vain; a module is found wherever it is.
MODULE = 'mlp_backbones.registry'


def config_path(name: str) -> str:
    """The path of a config of this package, to inherit from where its scope is not known yet:

    ``_base_ = __import__('mlp_backbones').config_path('gmlp_upernet_ade20k.py')``

    Args:
        name: Its name below ``configs/``.

    Raises:
        FileNotFoundError: if there is none.
    """
    folder = Path(__file__).parent / '.mim' / 'configs'
    path = folder / name
    if not path.is_file():
        names = ', '.join(sorted(x.name for x in path.parent.glob('*.py'))) or 'nothing'
        raise FileNotFoundError(f'{NAME} has no config {name}; {path.parent} has {names}')
    return str(path)


def register_config_scope() -> None:
    """Tell mmengine that the package carries configs, in its folder `.mim`."""
    if NAME in MODULE2PACKAGE:
        return
    MODULE2PACKAGE[NAME] = MODULE
    # The fork of mmsegmentation is a distribution of another name, whose configs mmengine misses.
    if not is_installed(MODULE2PACKAGE['mmseg']):
        MODULE2PACKAGE['mmseg'] = 'mmseg'

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

    # mmengine would build all that is in a base of ours in our scope, where mmseg's classes are
    # not. It is to be built where its default_scope says, as if the file were the user's.
    find = Config._get_cfg_path

    @wraps(find)
    def find_without_scope(cfg_path: str, filename: str) -> tuple[str, str | None]:
        path, scope = find(cfg_path, filename)
        return path, None if scope == NAME else scope

    Config._get_cfg_path = staticmethod(find_without_scope)
