"""What is installed: one OpenMMLab stack, complete, and not two of them in each other's files.

`mmengine`, `mmcv`, `mmdet` and `mmseg` each come from one of two families of distributions, which
write to the same folders: the maintained forks (`onedl-*`) and upstream. pip does not know that,
silently installs both, and the one that was unpacked last wins, file by file.

Only metadata is read here. Nothing of the stack is imported, so the message comes before the
errors that a broken stack would raise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

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
TITLES = {'onedl': 'the maintained forks', 'openmmlab': 'upstream OpenMMLab'}
# Other distributions with the same files.
VARIANTS = {'mmengine': ('mmengine-lite',), 'mmcv': ('mmcv-lite', 'mmcv-full')}


def check_environment() -> None:
    """Check that one stack, and only one, provides mmengine and mmcv.

    mmcv without its compiled ops is enough for the backbones.

    Raises:
        ImportError: If distributions of both stacks are installed, or two that provide the same
            module, or mmcv 1.x, or if mmengine or mmcv is missing. The message names what was
            found and the commands that repair it.
    """
    found = installed()
    stacks = _stacks(found)
    shared = [module for module, providers in found.items() if len(providers) > 1]
    if len(stacks) > 1 or shared:
        problem = 'Two OpenMMLab stacks are installed in one environment:'
        if len(stacks) == 1:
            problem = f'Several distributions provide {" and ".join(shared)}:'
        listing = [
            f'    {name} {number}  (import {module})'
            for module, providers in found.items()
            for name, number in providers.items()
        ]
        # Uninstalling one of two that share a folder takes files of the other with it.
        cure = 'They share folders, so neither is whole. Uninstall all, then install one stack:'
        names = [name for providers in found.values() for name in providers]
        wanted = [module for module, providers in found.items() if providers]
        _refuse('\n'.join([problem, *listing, cure]), names, wanted, stacks)
    for name, number in found['mmcv'].items():
        if number.startswith(('0.', '1.')):
            problem = f'{name} {number} is installed; mlp_backbones needs mmcv 2.0 or newer.'
            _refuse(problem, [name], ['mmengine', 'mmcv'], stacks)
    _check_present(('mmengine', 'mmcv'), 'mlp_backbones')


def require(*modules: str) -> None:
    """Check that what a tool needs beyond the backbones is installed.

    Args:
        modules: Import names, of 'mmengine', 'mmcv', 'mmdet' and 'mmseg'. 'mmdet' asks for mmcv's
            compiled ops too: every detector of mmdet uses them.

    Raises:
        ValueError: If a name is none of these.
        ImportError: If one is missing. The message says how to install it beside what is there.
    """
    known = REQUIREMENTS['onedl']
    for module in modules:
        if module not in known:
            raise ValueError(f'unknown module {module!r}: expected one of {", ".join(known)}')
    check_environment()
    _check_present(modules, 'this tool')
    if 'mmdet' in modules and not has_compiled_ops():
        _refuse(
            "mmcv is installed without its compiled ops (mmcv._ext), which mmdet's models need.\n"
            'mmcv-lite has none, and a build of mmcv that cannot see torch leaves them out '
            'without an error. Build it again beside torch:',
            [],
            ['mmcv'],
            _stacks(installed()) or ['onedl'],
            '--no-cache-dir --no-deps --force-reinstall ',
        )


def installed() -> dict[str, dict[str, str]]:
    """The distributions that are installed: `{import name: {distribution: version}}`."""
    found: dict[str, dict[str, str]] = {}
    for stack in REQUIREMENTS.values():
        for module, requirement in stack.items():
            providers = found.setdefault(module, {})
            for name in (re.split('[=<>]', requirement)[0], *VARIANTS.get(module, ())):
                with suppress(PackageNotFoundError):
                    providers[name] = version(name) or '(unknown version)'
    return found


def has_compiled_ops() -> bool:
    """Whether mmcv has its compiled extension; nothing is imported."""
    folder = _module_folder('mmcv')
    return folder is not None and any(
        path.suffix in ('.so', '.pyd') for path in folder.glob('_ext*')
    )


def _check_present(modules: Iterable[str], user: str) -> None:
    missing = [module for module in modules if _module_folder(module) is None]
    if not missing:
        return
    found = installed()
    gone = [name for module in missing for name in found[module]]
    verb = 'is' if len(missing) == 1 else 'are'
    problem = f'{user} needs {" and ".join(missing)}, which {verb} not installed.'
    if gone:
        problem = (
            f'{" and ".join(gone)} should provide {" and ".join(missing)}, but the files are '
            'gone, as happens when another distribution with the same files is uninstalled. '
            'Remove the rest first:'
        )
    _refuse(problem, gone, missing, _stacks(found) or list(REQUIREMENTS))


def _refuse(
    problem: str, remove: list[str], modules: list[str], stacks: list[str], options: str = ''
) -> None:
    """Raise ImportError with the pip commands that repair it, for each stack that may be meant."""
    lines = [problem]
    if remove:
        lines.append(f'    pip uninstall -y {" ".join(remove)}')
    for stack in stacks:
        lines.append(f'With {TITLES[stack]}:')
        if 'mmcv' in modules:  # its ops are compiled against the torch that is installed
            lines.append('    pip install torch "setuptools<82" wheel packaging ninja')
        isolation = '--no-build-isolation ' if 'mmcv' in modules else ''
        names = ' '.join(f'"{REQUIREMENTS[stack][module]}"' for module in modules)
        lines.append(f'    pip install {isolation}{options}{names}')
    raise ImportError('\n'.join([*lines, 'docs/install.md has the details.']))


def _stacks(found: dict[str, dict[str, str]]) -> list[str]:
    names = [name for providers in found.values() for name in providers]
    return sorted({'onedl' if name.startswith('onedl-') else 'openmmlab' for name in names})


def _module_folder(module: str) -> Path | None:
    """The folder of an importable package; a folder without `__init__.py` is a left-over."""
    try:
        spec = find_spec(module)
    except ValueError:  # a stub in sys.modules without a spec
        return None
    return Path(spec.origin).parent if spec is not None and spec.origin else None
