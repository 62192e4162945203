"""Registries of the scope `mlp_backbones`, children of mmengine's root registries.

`type='mlp_backbones.GMLP'` builds from every OpenMMLab code base: mmengine imports
this module when it meets the scope, and `locations` imports the classes.
"""

from collections.abc import Callable, Mapping
from functools import wraps

from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import METRICS as ROOT_METRICS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as ROOT_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as ROOT_OPTIM_WRAPPERS
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from mmengine.registry import Registry

MODELS = Registry(
    'model', parent=ROOT_MODELS, scope='mlp_backbones', locations=['mlp_backbones.models']
)
HOOKS = Registry(
    'hook',
    parent=ROOT_HOOKS,
    scope='mlp_backbones',
    locations=[
        'mlp_backbones.engine.bad_data',
        'mlp_backbones.engine.checkpoint_hook',
        'mlp_backbones.engine.finite',
        'mlp_backbones.engine.val_loss',
    ],
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=ROOT_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mlp_backbones',
    locations=['mlp_backbones.engine.layer_decay'],
)
OPTIM_WRAPPERS = Registry(
    'optimizer wrapper',
    parent=ROOT_OPTIM_WRAPPERS,
    scope='mlp_backbones',
    locations=['mlp_backbones.engine.bfloat16'],
)
METRICS = Registry(
    'metric',
    parent=ROOT_METRICS,
    scope='mlp_backbones',
    locations=['mlp_backbones.reports.metrics'],
)
TRANSFORMS = Registry(
    'transform',
    parent=ROOT_TRANSFORMS,
    scope='mlp_backbones',
    locations=['mlp_backbones.data.transforms'],
)


def offer_bare_names(modules: Mapping[str, Callable]) -> None:
    """Let ``type='GMLP'`` find ours, through the root registry, where nobody else has that name.

    A class that is registered there, earlier or later, has the name instead.
    """
    held, register = ROOT_MODELS.module_dict, ROOT_MODELS._register_module
    ours = {name: module for name, module in modules.items() if name not in held}

    @wraps(register)
    def give_way(module, module_name=None, force=False):
        names = [module_name] if isinstance(module_name, str) else module_name
        for name in names or [getattr(module, '__name__', None)]:
            if name in ours and held.get(name) is ours[name]:
                del held[name]
        register(module, module_name, force)

    for name, module in ours.items():
        register(module, name)
    ROOT_MODELS._register_module = give_way
