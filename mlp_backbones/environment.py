"""What is installed: one OpenMMLab stack, complete, and not two of them in each other's files.

`mmengine`, `mmcv`, `mmdet` and `mmseg` each come from one of two families of distributions, which
write to the same folders: the maintained forks (`onedl-*`) and upstream. pip does not know that,
installs both without a word, and the one that was unpacked last wins, file by file.

Only metadata is read here. Nothing of the stack is imported, so the message comes before the
errors that a broken stack would raise.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

# Import name -> the distributions that provide it.
STACKS = {
    'onedl': {
        'mmengine': ('onedl-mmengine',),
        'mmcv': ('onedl-mmcv',),
        'mmdet': ('onedl-mmdetection',),
        'mmseg': ('onedl-mmsegmentation',),
    },
    'openmmlab': {
        'mmengine': ('mmengine', 'mmengine-lite'),
        'mmcv': ('mmcv', 'mmcv-lite', 'mmcv-full'),
        'mmdet': ('mmdet',),
        'mmseg': ('mmsegmentation',),
    },
}

# Import name -> what to give to pip; setup.py's extras say the same.
REQUIREMENTS = {
    'onedl': {
        'mmengine': 'onedl-mmengine==0.10.12',
        'mmcv': 'onedl-mmcv==2.3.6',
        'mmdet': 'onedl-mmdetection==3.5.1',
        'mmseg': 'onedl-mmsegmentation==1.4.2',
    },
    'openmmlab': {
        'mmengine': 'mmengine>=0.10.7,<0.11',
        'mmcv': 'mmcv>=2.0.0,<2.2.0',
        'mmdet': 'mmdet>=3.3,<3.4',
        'mmseg': 'mmsegmentation>=1.2,<1.3',
    },
}

HELP = 'docs/install.md has the details.'


def check_environment() -> None:
    """Check that one stack, and only one, provides mmengine and mmcv.

    mmcv without its compiled ops is enough for the backbones.

    Raises:
        ImportError: If distributions of both stacks are installed, or two that provide the same
            module, or mmcv 1.x, or if mmengine or mmcv is missing. The message names what was
            found and the commands that repair it.
    """
    found = installed()
    _check_one_stack(found)
    _check_mmcv_2(found['mmcv'])
    _check_present(('mmengine', 'mmcv'), found, 'mlp_backbones')


def require(*modules: str) -> None:
    """Check that what a tool needs beyond the backbones is installed.

    Args:
        modules: Import names, of 'mmengine', 'mmcv', 'mmdet' and 'mmseg'. 'mmdet' asks for mmcv's
            compiled ops too: every detector of mmdet uses them.

    Raises:
        ValueError: If a name is none of these.
        ImportError: If one is missing. The message says how to install it beside what is there.
    """
    known = STACKS['onedl']
    for module in modules:
        if module not in known:
            raise ValueError(f'unknown module {module!r}: expected one of {", ".join(known)}')
    check_environment()
    _check_present(modules, installed(), 'this tool')
    if 'mmdet' in modules and not has_compiled_ops():
        raise ImportError(
            "mmcv is installed without its compiled ops (mmcv._ext), which mmdet's models need.\n"
            'mmcv-lite has none, and a build of mmcv that cannot see torch leaves them out '
            'without an error. Build it again beside torch:\n'
            '    pip install "setuptools<82" wheel packaging ninja\n'
            '    pip install --no-build-isolation --no-cache-dir --no-deps --force-reinstall '
            f'"{_requirement("mmcv", installed())}"\n'
            f'{HELP}'
        )


def installed() -> dict[str, dict[str, str]]:
    """The distributions that are installed: `{import name: {distribution: version}}`."""
    found: dict[str, dict[str, str]] = {}
    for stack in STACKS.values():
        for module, distributions in stack.items():
            providers = found.setdefault(module, {})
            for name in distributions:
                with suppress(PackageNotFoundError):
                    providers[name] = version(name) or '(unknown version)'
    return found


def has_compiled_ops() -> bool:
    """Whether mmcv has its compiled extension; nothing is imported."""
    folder = _module_folder('mmcv')
    return folder is not None and any(
        path.suffix in ('.so', '.pyd') for path in folder.glob('_ext*')
    )


def _check_one_stack(found: dict[str, dict[str, str]]) -> None:
    names = [name for providers in found.values() for name in providers]
    stacks = {_stack_of(name) for name in names}
    shared = [module for module, providers in found.items() if len(providers) > 1]
    if len(stacks) <= 1 and not shared:
        return

    listing = '\n'.join(
        f'    {name} {number}  (import {module})'
        for module, providers in found.items()
        for name, number in providers.items()
    )
    if len(stacks) > 1:
        problem = 'Two OpenMMLab stacks are installed in one environment:'
    else:
        problem = f'Several distributions provide {" and ".join(shared)}:'
    wanted = [module for module, providers in found.items() if providers]
    # Uninstalling one of two that share a folder takes files of the other with it: all must go.
    raise ImportError(
        f'{problem}\n{listing}\n'
        'They share folders, so neither is whole. Uninstall all of them, then install one stack:\n'
        f'    pip uninstall -y {" ".join(names)}\n'
        f'{_install_commands(wanted, sorted(stacks))}\n'
        f'{HELP}'
    )


def _check_mmcv_2(providers: dict[str, str]) -> None:
    for name, number in providers.items():
        if number.startswith(('0.', '1.')):
            raise ImportError(
                f'{name} {number} is installed; mlp_backbones needs mmcv 2.0 or newer.\n'
                f'    pip uninstall -y {name}\n'
                f'{_install_commands(["mmengine", "mmcv"], [_stack_of(name)])}\n'
                f'{HELP}'
            )


def _check_present(modules: tuple[str, ...], found: dict[str, dict[str, str]], user: str) -> None:
    missing = [module for module in modules if _module_folder(module) is None]
    if not missing:
        return
    gone = [name for module in missing for name in found[module]]
    if gone:
        reason = (
            f'{" and ".join(gone)} should provide {" and ".join(missing)}, but the files are '
            'gone, as happens when another distribution with the same files is uninstalled. '
            'Remove the rest first:\n'
            f'    pip uninstall -y {" ".join(gone)}'
        )
    else:
        verb = 'is' if len(missing) == 1 else 'are'
        reason = f'{user} needs {" and ".join(missing)}, which {verb} not installed.'
    stacks = sorted({_stack_of(name) for providers in found.values() for name in providers})
    commands = _install_commands(missing, stacks or list(STACKS))
    raise ImportError(f'{reason}\n{commands}\n{HELP}')


def _install_commands(modules: list[str], stacks: list[str]) -> str:
    """The pip commands that install `modules`, for each of the stacks that may be meant."""
    titles = {'onedl': 'the maintained forks', 'openmmlab': 'upstream OpenMMLab'}
    lines = []
    for stack in stacks:
        lines.append(f'With {titles[stack]}:')
        names = ' '.join(f'"{REQUIREMENTS[stack][module]}"' for module in modules)
        if 'mmcv' in modules:  # its ops are compiled against the torch that is installed
            lines.append('    pip install torch "setuptools<82" wheel packaging ninja')
            lines.append(f'    pip install --no-build-isolation {names}')
        else:
            lines.append(f'    pip install {names}')
    return '\n'.join(lines)


def _requirement(module: str, found: dict[str, dict[str, str]]) -> str:
    names = [name for providers in found.values() for name in providers]
    return REQUIREMENTS[_stack_of(names[0]) if names else 'onedl'][module]


def _stack_of(distribution: str) -> str:
    return 'onedl' if distribution.startswith('onedl-') else 'openmmlab'


def _module_folder(module: str) -> Path | None:
    """The folder of an importable package; a folder without `__init__.py` is a left-over."""
    try:
        spec = find_spec(module)
    except ValueError:  # a stub in sys.modules without a spec
        return None
    return Path(spec.origin).parent if spec is not None and spec.origin else None
