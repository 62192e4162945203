from ..registry import MODELS, ROOT_MODELS
from . import data_preprocessors
from .backbones import *  # noqa: F403
from .necks import *  # noqa: F403

# The bare name, type='GMLP', resolves through the root registry. A class that another
# package registered there under the same name keeps it; the data preprocessors have the
# names of those that they extend, and are found in our scope only.
for _name, _class in MODELS.module_dict.items():
    if _name not in ROOT_MODELS.module_dict and not hasattr(data_preprocessors, _name):
        ROOT_MODELS.register_module(name=_name, module=_class)
