"""Install states as importlib.metadata sees them: folders with dist-info, read by a fresh Python.

`-S` hides the real stack, so a case also shows that nothing beyond the standard library is used.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mlp_backbones import environment

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
    'onedl-mmengine': 'mmengine',
    'onedl-mmcv': 'mmcv',
    'onedl-mmdetection': 'mmdet',
    'onedl-mmsegmentation': 'mmseg',
    'mmengine': 'mmengine',
    'mmengine-lite': 'mmengine',
    'mmcv': 'mmcv',
    'mmcv-lite': 'mmcv',
    'mmcv-full': 'mmcv',
    'mmdet': 'mmdet',
    'mmsegmentation': 'mmseg',
}
ONEDL = ('onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'onedl-mmsegmentation')
OPENMMLAB = ('mmengine', 'mmcv', 'mmdet', 'mmsegmentation')


class Site:
    """A folder of installed distributions."""

    def __init__(self, folder: Path):
        self.folder = folder

    def install(self, *names: str, version: str = '2.1.0', files: bool = True) -> 'Site':
        for name in names:
            info = self.folder / f'{name.replace("-", "_")}-{version}.dist-info'
            info.mkdir(parents=True)
            (info / 'METADATA').write_text(
                f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'
            )
            if files:
                (self.folder / MODULES[name]).mkdir(exist_ok=True)
                (self.folder / MODULES[name] / '__init__.py').touch()
        return self

    def run(self, call: str) -> str | None:
        """Calls a function of environment.py; its ImportError's text, or None if it passes."""
        code = f"""
import importlib.util
spec = importlib.util.spec_from_file_location('environment', {environment.__file__!r})
environment = importlib.util.module_from_spec(spec)
spec.loader.exec_module(environment)
try:
    environment.{call}
except ImportError as error:
    print('ImportError:', error)
"""
        result = subprocess.run(
            [sys.executable, '-S', '-c', code],
            env={'PYTHONPATH': str(self.folder)},
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout or None


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def commands(message: str) -> list[list[str]]:
    """The commands of a message, and a check that pip would understand what they name."""
    lines = [shlex.split(line) for line in re.findall(r'^    (pip .*)$', message, re.MULTILINE)]
    for line in lines:
        for argument in line[2:]:
            if not argument.startswith('-'):
                Requirement(argument)
    return lines


@pytest.mark.parametrize(
    'names',
    [
        ONEDL,
        OPENMMLAB,
        ONEDL[:2],
        OPENMMLAB[:2],
        ONEDL[:3],
        (*ONEDL[:2], 'onedl-mmsegmentation'),
        ('mmengine-lite', 'mmcv-lite'),
    ],
    ids=' '.join,
)
def test_one_stack_passes(site, names):
    assert site.install(*names).run('check_environment()') is None


@pytest.mark.parametrize('stranger', [name for name in MODULES if name not in ONEDL])
def test_two_stacks_are_named_with_the_way_out(site, stranger):
    site.install(*ONEDL).install(stranger, version='9.8.7')
    message = site.run('check_environment()')
    assert 'Two OpenMMLab stacks' in message
    assert f'{stranger} 9.8.7' in message
    uninstall, *install = commands(message)
    assert uninstall[:3] == ['pip', 'uninstall', '-y']
    assert set(uninstall[3:]) == {*ONEDL, stranger}
    assert any('onedl-mmcv==2.3.6' in line for line in install)
    assert any('mmcv>=2.0.0,<2.2.0' in line for line in install)


def test_stacks_do_not_mix_across_modules(site):
    message = site.install('onedl-mmengine', 'onedl-mmcv', 'mmdet').run('check_environment()')
    assert 'Two OpenMMLab stacks' in message
    assert 'mmdet 2.1.0' in message


def test_two_mmcv_of_one_stack(site):
    message = site.install('mmengine', 'mmcv', 'mmcv-lite').run('check_environment()')
    assert 'Several distributions provide mmcv' in message
    assert {'mmcv', 'mmcv-lite'} <= set(commands(message)[0])
    assert 'onedl' not in message


@pytest.mark.parametrize('name, version', [('mmcv-full', '1.7.2'), ('mmcv', '1.7.2')])
def test_mmcv_1(site, name, version):
    message = site.install('mmengine').install(name, version=version).run('check_environment()')
    assert f'{name} 1.7.2' in message and 'mmcv 2.0' in message
    assert commands(message)[0] == ['pip', 'uninstall', '-y', name]


def test_nothing_installed_offers_both_stacks(site):
    message = site.run('check_environment()')
    assert 'mlp_backbones needs mmengine and mmcv, which are not installed' in message
    offered = [argument for line in commands(message) for argument in line]
    assert {'onedl-mmengine==0.10.12', 'onedl-mmcv==2.3.6'} <= set(offered)
    assert {'mmengine>=0.10.7,<0.11', 'mmcv>=2.0.0,<2.2.0'} <= set(offered)
    assert 'docs/install.md' in message


@pytest.mark.parametrize(
    'present, wanted', [('onedl-mmengine', 'onedl-mmcv'), ('mmengine', 'mmcv')]
)
def test_what_is_missing_comes_from_the_stack_that_is_there(site, present, wanted):
    message = site.install(present).run('check_environment()')
    assert 'needs mmcv, which is not installed' in message
    names = [Requirement(a).name for line in commands(message) for a in line[2:] if a[0] != '-']
    assert wanted in names
    assert not {name for name in names if name in MODULES} - {wanted}


@pytest.mark.parametrize('remains', [False, True], ids=['no folder', 'folder without __init__.py'])
def test_files_taken_away_by_an_uninstall(site, remains):
    site.install('onedl-mmengine').install('onedl-mmcv', files=False)
    if remains:
        (site.folder / 'mmcv' / '__pycache__').mkdir(parents=True)
    message = site.run('check_environment()')
    assert 'onedl-mmcv should provide mmcv, but the files are gone' in message
    uninstall, *install = commands(message)
    assert uninstall == ['pip', 'uninstall', '-y', 'onedl-mmcv']
    assert any('onedl-mmcv==2.3.6' in line for line in install)


def test_source_checkout_without_metadata_counts_as_installed(site):
    for module in ('mmengine', 'mmcv', 'mmdet'):
        (site.folder / module).mkdir()
        (site.folder / module / '__init__.py').touch()
    (site.folder / 'mmcv' / '_ext.cpython-311-x86_64-linux-gnu.so').touch()
    assert site.run("require('mmdet')") is None


def test_require_asks_for_mmdet_of_the_same_stack(site):
    message = site.install('mmengine', 'mmcv').run("require('mmdet')")
    assert 'this tool needs mmdet, which is not installed' in message
    assert commands(message) == [['pip', 'install', 'mmdet>=3.3,<3.4']]
    message = Site(site.folder / 'other').install(*ONEDL[:2]).run("require('mmseg', 'mmdet')")
    assert commands(message) == [
        ['pip', 'install', 'onedl-mmsegmentation==1.4.2', 'onedl-mmdetection==3.5.1']
    ]


def test_compiled_ops_are_needed_by_mmdet_alone(site):
    site.install(*ONEDL)
    assert site.run('check_environment()') is None
    assert site.run("require('mmseg')") is None
    message = site.run("require('mmdet')")
    assert 'without its compiled ops' in message
    rebuild = commands(message)[-1]
    assert {'--no-build-isolation', '--force-reinstall', 'onedl-mmcv==2.3.6'} <= set(rebuild)
    (site.folder / 'mmcv' / '_ext.cpython-311-x86_64-linux-gnu.so').touch()
    assert site.run("require('mmdet')") is None


def test_require_rejects_an_unknown_module():
    with pytest.raises(ValueError, match="unknown module 'mmpose': expected one of mmengine"):
        environment.require('mmpose')


def test_import_of_the_package_checks_first(site):
    """The real environment with upstream's mmcv beside it: refused before torch is loaded."""
    site.install('mmcv', files=False)
    code = """
import sys
try:
    import mlp_backbones
except ImportError as error:
    print(error)
    print('torch' in sys.modules, 'mmcv' in sys.modules)
"""
    result = subprocess.run(
        [sys.executable, '-c', code],
        env={'PYTHONPATH': f'{site.folder}:{ROOT}', 'PATH': ''},
        cwd=site.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert 'Two OpenMMLab stacks' in result.stdout
    assert result.stdout.endswith('False False\n')
