from ..registry import MODELS, offer_bare_names
from .backbones import *  # noqa: F403
from .data_preprocessors import CODE_BASES, ValidSizes  # noqa: F401
from .necks import *  # noqa: F403

# The data preprocessors have the names of those that they extend.
offer_bare_names(
    {name: module for name, module in MODELS.module_dict.items() if name not in CODE_BASES}
)
