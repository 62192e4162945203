"""What pip makes of the repository, seen from outside it. Builds run on a copy of the tree."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mlp_backbones.environment import REQUIREMENTS

ROOT = Path(__file__).resolve().parents[1]
MIM = 'mlp_backbones/.mim/'
NOT_SOURCE = shutil.ignore_patterns('.*', '__pycache__', '*.egg-info')
NOT_SOURCE_AT_THE_TOP = {'build', 'dist', 'data', 'work_dirs', 'docs', 'tests'}


def not_source(folder: str, names: list[str]) -> set[str]:
    at_the_top = NOT_SOURCE_AT_THE_TOP if Path(folder) == ROOT else set()
    return NOT_SOURCE(folder, names) | at_the_top & {*names}


# setuptools' own entry points, which pip and build call; free of pip's start-up time.
BUILD = 'from setuptools import build_meta; print(build_meta.build_{kind}({target!r}))'


def build(kind: str, tree: Path, target: Path) -> Path:
    target.mkdir(exist_ok=True)
    code = BUILD.format(kind=kind, target=str(target))
    result = subprocess.run([sys.executable, '-c', code], cwd=tree, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return target / result.stdout.splitlines()[-1]


def run(code: str, path: list[Path], cwd: Path, *flags: str) -> str:
    """The last line that a fresh Python prints with `path` before everything else."""
    env = os.environ | {'PYTHONPATH': os.pathsep.join(map(str, path)), 'OMP_NUM_THREADS': '1'}
    result = subprocess.run(
        [sys.executable, *flags, '-c', code], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1]


def source_files(*names: str) -> set[str]:
    paths = [path for name in names for path in [ROOT / name, *(ROOT / name).rglob('*')]]
    return {
        path.relative_to(ROOT).as_posix()
        for path in paths
        if path.is_file() and '__pycache__' not in path.parts
    }


@pytest.fixture(scope='module')
def tree(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('source tree') / 'mlp_backbones'  # a space in the path
    shutil.copytree(ROOT, folder, ignore=not_source)
    return folder


@pytest.fixture(scope='module')
def wheel(tree, tmp_path_factory) -> Path:
    return build('wheel', tree, tmp_path_factory.mktemp('wheel'))


@pytest.fixture(scope='module')
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith('/METADATA'))
        return HeaderParser().parsestr(archive.read(name).decode())


def test_wheel_is_the_package_and_its_mim_folder(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if '.dist-info/' not in name}
        top_level = [n for n in archive.namelist() if n.endswith('.dist-info/top_level.txt')]
        assert archive.read(top_level[0]).decode().split() == ['mlp_backbones']
    package = {
        path.relative_to(ROOT).as_posix()
        for suffix in ('py', 'html')
        for path in (ROOT / 'mlp_backbones').rglob(f'*.{suffix}')
    }
    mim = {MIM + name for name in source_files('configs', 'tools', 'model-index.yml')}
    mim.add(f'{MIM}weights/metafile.yml')  # and none of the weights
    assert len(mim) > 5
    assert names == {name for name in package if not name.startswith(MIM)} | mim


def test_source_distribution_builds_the_same_wheel(tree, wheel, tmp_path):
    sdist = build('sdist', tree, tmp_path / 'sdist')
    shutil.unpack_archive(sdist, tmp_path, filter='data')
    again = build('wheel', tmp_path / sdist.name.removesuffix('.tar.gz'), tmp_path / 'wheel')
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        contents = [
            {n: archive.read(n) for n in archive.namelist() if not n.endswith('/RECORD')}
            for archive in (one, other)
        ]
    assert contents[0] == contents[1]


def test_build_keeps_the_links_of_an_editable_install_and_ships_no_stale_file(tree, tmp_path):
    own = tmp_path / 'tree'
    shutil.copytree(tree, own)
    build('editable', own, tmp_path / 'editable')
    stale = own / 'mlp_backbones' / 'stale.py'
    stale.touch()
    (own / 'configs' / 'stale.py').touch()
    build('wheel', own, tmp_path / 'first')
    stale.unlink()
    (own / 'configs' / 'stale.py').unlink()
    with zipfile.ZipFile(build('wheel', own, tmp_path / 'second')) as archive:
        assert not [name for name in archive.namelist() if 'stale' in name]
    for name in ('configs', 'tools', 'weights', 'model-index.yml'):
        link = own / MIM / name
        assert link.is_symlink() and link.resolve() == own / name


RESOLVE = """
from mmengine.config import Config
from mmengine.hub import get_config
name = 'gmlp_maskrcnn_coco.py'
with open('mine.py', 'w') as file:
    file.write(f"_base_ = __import__('mlp_backbones').config_path('{name}')")
config = Config.fromfile('mine.py')  # as mmdet's own tools read it
assert config.model.backbone.type.endswith('GMLP'), config.model.backbone
import mlp_backbones
with open('mine.py', 'w') as file:
    file.write(f"_base_ = 'mlp_backbones::{name}'")
assert Config.fromfile('mine.py').to_dict() == config.to_dict()
assert get_config(f'mlp_backbones::{name}').to_dict() == config.to_dict()
print(mlp_backbones.__file__)
"""


def test_configs_resolve_from_an_installed_wheel(wheel, tmp_path):
    site = tmp_path / 'site'
    pip = [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index']
    subprocess.run([*pip, '--target', site, wheel], check=True)
    assert run(RESOLVE, [site], tmp_path) == str(site / 'mlp_backbones' / '__init__.py')


def test_configs_resolve_from_an_editable_install(tree, tmp_path):
    site = tmp_path / 'site'
    with zipfile.ZipFile(build('editable', tree, tmp_path / 'editable')) as archive:
        archive.extractall(site)
    # -S keeps this repository's own editable install out of the way; the stack is put back.
    stack = Path(sysconfig.get_path('purelib'))
    code = f'import site; site.addsitedir({str(site)!r})\n{RESOLVE}'
    assert run(code, [site, stack], tmp_path, '-S') == str(tree / 'mlp_backbones' / '__init__.py')


def requirements(metadata, extra: str | None = None) -> set[str]:
    found = [Requirement(text) for text in metadata.get_all('Requires-Dist')]
    return {
        re.sub(r'\s*;.*', '', str(requirement))
        for requirement in found
        if (requirement.marker is None if extra is None else f'"{extra}"' in str(requirement))
    }


def test_install_requires_only_what_pip_may_install_beside_any_stack(metadata):
    assert requirements(metadata) == {'torch>=2.1', 'einops'}
    assert metadata['Requires-Python'] == '>=3.10'


def test_extras_say_what_the_import_check_says(metadata):
    def parsed(texts):
        return {Requirement(text) for text in texts}

    assert parsed(requirements(metadata, 'onedl')) == parsed(REQUIREMENTS['onedl'].values())
    assert parsed(requirements(metadata, 'openmmlab')) == parsed(
        [*REQUIREMENTS['openmmlab'].values(), 'setuptools<82', 'ftfy', 'regex']
    )


def test_constraints_pin_every_requirement_of_the_tested_stack(metadata):
    lines = (ROOT / 'constraints.txt').read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith('#')]
    assert all(re.fullmatch(r'==[^*]+', str(pin.specifier)) for pin in pins)
    names = {pin.name for pin in pins}
    for extra in (None, 'onedl', 'predict', 'dev'):
        assert {Requirement(text).name for text in requirements(metadata, extra)} <= names
    pinned = {f'{pin.name}{pin.specifier}' for pin in pins}
    assert set(REQUIREMENTS['onedl'].values()) <= pinned


def test_backbones_import_only_what_is_required():
    allowed = {'torch', 'einops', 'mmengine', 'mmcv'}
    package = ROOT / 'mlp_backbones'
    for path in [*package.glob('*.py'), *(package / 'models').rglob('*.py')]:
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            foreign = {name.partition('.')[0] for name in names} - set(sys.stdlib_module_names)
            assert foreign <= allowed, f'{path} imports {foreign - allowed}'


def test_backbones_build_without_mmdet_and_mmseg(tmp_path):
    code = """
import sys
sys.modules.update(dict.fromkeys(['mmdet', 'mmseg', 'torchvision']))  # importing them fails
import mlp_backbones
from mmengine.registry import MODELS
print(type(MODELS.build(dict(type='mlp_backbones.GMLP', arch='nano'))).__name__)
"""
    assert run(code, [ROOT], tmp_path) == 'GMLP'


def test_install_names_everything_that_is_missing_and_changes_nothing(tmp_path):
    tree = tmp_path / 'a tree'
    (tree / 'tools').mkdir(parents=True)
    for name in ('tools/install.sh', 'constraints.txt', 'setup.py'):
        shutil.copy(ROOT / name, tree / name)
    old_python = tmp_path / 'python2.7'
    old_python.write_text(
        '#!/bin/sh\ncase "$2" in *python_version*) echo 2.7.18;; *) exit 1; esac'
    )
    old_python.chmod(0o755)
    settings = {'PYTHON': str(old_python), 'MIN_DISK_GB': '99999999'}
    result = subprocess.run(
        [tree / 'tools/install.sh'], env=os.environ | settings, capture_output=True, text=True
    )
    assert result.returncode == 1
    for text in ('is 2.7.18', '99999999 GB are needed'):
        assert text in result.stderr
    assert not (tree / '.venv').exists()
