"""Registries of the scope `mlp_backbones`, children of mmengine's root registries.

`type='mlp_backbones.GMLP'` builds from every OpenMMLab code base: mmengine imports
this module when it meets the scope, and `locations` imports the classes.
"""

from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as ROOT_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import Registry

MODELS = Registry(
    'model', parent=ROOT_MODELS, scope='mlp_backbones', locations=['mlp_backbones.models']
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=ROOT_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mlp_backbones',
    locations=['mlp_backbones.engine.layer_decay'],
)
