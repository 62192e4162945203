"""The config in a checkpoint, read as data.

mmengine keeps it as the text of a Python program, and executes that. And a config that is data
alone may still name, as a ``type``, anything that can be imported.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

import mmengine.registry
from mmengine.config import Config
from mmengine.registry import Registry

from .files import CheckpointError

# What an inferencer needs; what it draws with is not for a checkpoint to say.
SECTIONS = ('model', 'test_dataloader')
VISUALIZERS = {'mmdet': 'DetLocalVisualizer', 'mmseg': 'SegLocalVisualizer'}


def config_of(content: Mapping, address: str) -> Config:
    """The config of the model in a checkpoint that mmengine has written.

    It has the model, without any ``init_cfg``, the pipeline of the images to be tested, and a
    visualizer of its scope, mmdet's or mmseg's.

    Args:
        content: What :func:`read_checkpoint` has read.
        address: Where it was read, for error messages.

    Raises:
        CheckpointError: if there is no config in it, one that is more than data, of another
            scope, or one that names a class that is not registered.
    """
    text = find_text(content)
    if text is None:
        raise CheckpointError(f'{address} has no config in it: give one.')
    try:
        cfg = parse(text)
        scope = cfg.get('default_scope')
        if scope not in VISUALIZERS:
            raise CheckpointError(f'its default_scope={scope!r} is neither mmdet nor mmseg')
        missing = [name for name in SECTIONS if not isinstance(cfg.get(name), dict)]
        if missing:
            raise CheckpointError(f'it has no {" and no ".join(missing)}')
        cfg = {name: without_init_cfg(cfg[name]) for name in SECTIONS}
        import_scope(scope)
        check_types(cfg)
    except CheckpointError as error:
        raise CheckpointError(
            f'the config in {address} is refused: {error}. If you trust it, or have it in a '
            'file, give that file as the config.'
        ) from error
    visualizer = dict(type=VISUALIZERS[scope], vis_backends=[])
    return Config({**cfg, 'default_scope': scope, 'visualizer': visualizer})


def find_text(content: Mapping) -> str | None:
    """Where mmengine has the text: in the message hub or, earlier, in the meta data."""
    hub = content.get('message_hub')
    places = (
        (hub.get('runtime_info') if isinstance(hub, Mapping) else None, 'cfg'),
        (content.get('meta'), 'cfg'),
    )
    for place, name in places:
        if isinstance(place, Mapping) and isinstance(place.get(name), str):
            return place[name]
    return None


def parse(text: str) -> dict:
    """The names that a program assigns values to, if it does nothing else.

    A value is a literal, or a call of ``dict`` with such values.

    Raises:
        CheckpointError: with the line of anything else.
    """
    try:
        cfg = {}
        for statement in ast.parse(text).body:
            if not (isinstance(statement, ast.Assign) and len(statement.targets) == 1):
                raise _more_than_data(statement)
            (target,) = statement.targets
            if not isinstance(target, ast.Name):
                raise _more_than_data(statement)
            cfg[target.id] = _value(statement.value)
        return cfg
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f'it cannot be read ({error})') from error


def _value(node: ast.expr) -> object:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        if node.args or any(keyword.arg is None for keyword in node.keywords):
            raise _more_than_data(node)
        return {keyword.arg: _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict) and None not in node.keys:
        pairs = zip(node.keys, node.values, strict=True)
        return {ast.literal_eval(key): _value(value) for key, value in pairs}
    if isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(item) for item in node.elts)
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise _more_than_data(node) from error


def _more_than_data(node: ast.AST) -> CheckpointError:
    what = ast.unparse(node).splitlines()[0][:60]
    return CheckpointError(f'line {node.lineno} is more than data: {what}')


def without_init_cfg(node: object) -> object:
    """A copy without initial weights, which would be fetched only to be replaced."""
    if isinstance(node, dict):
        gone = ('init_cfg', 'pretrained')
        return {k: without_init_cfg(v) for k, v in node.items() if k not in gone}
    if isinstance(node, (list, tuple)):
        return type(node)(map(without_init_cfg, node))
    return node


def import_scope(scope: str) -> None:
    """Register all of mmdet or mmseg, and of this package."""
    from ..environment import require
    from ..registry import MODELS

    require(scope)
    for registry in registries():
        if registry.scope == MODELS.scope:
            registry.import_from_location()
    if scope == 'mmdet':
        from mmdet.utils import register_all_modules
    else:
        from mmseg.utils import register_all_modules
    register_all_modules(init_default_scope=False)


def check_types(node: object) -> None:
    """Raise CheckpointError if a ``type`` in a piece of config is not registered: mmengine imports
    and calls whatever it names.
    """
    from mmcv import ops

    registered = {(r.scope, name) for r in registries() for name in r.module_dict}
    known = {name for _, name in registered} | set(ops.__all__)  # RoIAlign
    for kind in _types(node):
        scope, _, name = kind.rpartition('.') if isinstance(kind, str) else ('', '', None)
        if name not in known or scope and (scope, name) not in registered:
            raise CheckpointError(
                f'its type={kind!r} is not registered (if it is yours, import its module first)'
            )


def _types(node: object) -> Iterator[object]:
    if isinstance(node, dict):
        if 'type' in node:
            yield node['type']
        for value in node.values():
            yield from _types(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _types(value)


def registries() -> Iterator[Registry]:
    """mmengine's root registries and all that descend from them."""
    waiting = [x for x in vars(mmengine.registry).values() if isinstance(x, Registry)]
    while waiting:
        registry = waiting.pop()
        waiting += registry.children.values()
        yield registry
