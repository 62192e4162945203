"""Whether weights by our names are those of a model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from .files import CheckpointError, some, wrong_shape


def grid_weights(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """The weights of ``model`` that belong to a grid: our name -> its module and its name there.

    The modules resize them when they are loaded (layers/grid_weights.py).
    """
    return {
        f'{path}.{name}': (module, name)
        for path, module in model.named_modules()
        if hasattr(module, 'token_axes')
        for name in module.token_axes()
    }


def check_shapes(model: nn.Module, state: Mapping[str, Tensor], prefix: str = '') -> None:
    """Raise CheckpointError if a weight in ``state`` has another shape than in ``model`` and is
    not one that can be resized from grid to grid, or if it is not a floating-point number where
    the model has one.

    Loaders that are not strict only log such a weight and leave the parameter random.
    """
    of_grid = grid_weights(model)
    for name, param in model.state_dict().items():
        value = state.get(prefix + name)
        if value is None:
            continue
        if param.is_floating_point() and not value.is_floating_point():
            raise CheckpointError(f'{prefix}{name} holds {value.dtype}, not weights.')
        if value.shape != param.shape:
            module, own = of_grid.get(name, (None, None))
            if module is None or module.grid_of(own, value.shape) is None:
                raise wrong_shape(prefix + name, value, param, module is not None)


def check_complete(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless ``state`` has all of the weights of ``model``."""
    missing = missing_weights(model, state)
    if missing:
        raise CheckpointError(
            f'the checkpoint lacks {len(missing)} of the {len(model.state_dict())} weights of '
            f'{type(model).__name__}, among them {some(missing)}.'
        )


def missing_weights(model: nn.Module, state: Mapping[str, Tensor], prefix: str = '') -> list[str]:
    """Our names of the weights of ``model`` that ``state`` does not have."""
    counts = 'num_batches_tracked'  # of a batch norm, which goes on from 0 without it
    names = [name for name in model.state_dict() if not name.endswith(counts)]
    return [name for name in names if prefix + name not in state]
