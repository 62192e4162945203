import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGE = 'mlp_backbones'
MIM_FILES = ('configs', 'tools', 'weights', 'model-index.yml')
NOT_IN_A_WHEEL = ('.safetensors',)  # weights/metafile.yml is

EXTRAS = {
    # The maintained forks of OpenMMLab. docs/install.md: mmcv's ops need an order of installation.
    'onedl': [
        'onedl-mmengine==0.10.12',
        'onedl-mmcv==2.3.6',
        'onedl-mmdetection==3.5.1',
        'onedl-mmsegmentation==1.4.2',
    ],
    'openmmlab': [
        'mmengine>=0.10.7,<0.11',
        'mmcv>=2.0.0,<2.2.0',
        'mmdet>=3.3,<3.4',
        'mmsegmentation>=1.2,<1.3',
        'setuptools<82',  # mmengine imports pkg_resources
        'ftfy',  # mmseg imports both and requires neither
        'regex',
    ],
    'pretrain': [  # configs/pretrain
        'onedl-mmpretrain==1.3.6',
        'torchvision',
    ],
    'predict': [  # tools/predict.py: pictures, tiles, videos
        'supervision>=0.31',
        'av',
    ],
    'dev': [
        'hypothesis',
        'onnxruntime',
        'onnxscript',
        'pytest',
        'pytest-xdist',
        'ruff',
        'safetensors',
        'setuptools>=64,<82',
        'wheel',
    ],
}


class BuildWithMim(build_py):
    """Gives the package `.mim/`, where mmengine and mim look for configs and tools.

    A wheel gets copies, made in the build folder. An editable install gets symbolic links in the
    source tree, so that an edited config is the one that is used.
    """

    def run(self):
        if self.editable_mode:
            super().run()
            self.link_mim()
            return
        # What an earlier build left here would be shipped, although it has left the source.
        shutil.rmtree(Path(self.build_lib, PACKAGE), ignore_errors=True)
        super().run()
        for source, target in self.mim_copies():
            self.mkpath(str(target.parent))
            self.copy_file(str(source), str(target), preserve_mode=True)

    def mim_copies(self):
        for name in MIM_FILES:
            top = ROOT / name
            for source in sorted(top.rglob('*')) if top.is_dir() else [top]:
                left_out = '__pycache__' in source.parts or source.suffix in NOT_IN_A_WHEEL
                if source.is_file() and not left_out:
                    yield source, Path(self.build_lib, PACKAGE, '.mim', source.relative_to(ROOT))

    def get_outputs(self, include_bytecode=True):
        outputs = super().get_outputs(include_bytecode)
        if not self.editable_mode:
            outputs += [str(target) for _, target in self.mim_copies()]
        return outputs

    @staticmethod
    def link_mim():
        mim = ROOT / PACKAGE / '.mim'
        mim.mkdir(exist_ok=True)
        for name in MIM_FILES:
            link = mim / name
            if link.is_symlink() or link.is_file():
                link.unlink()
            elif link.is_dir():
                shutil.rmtree(link)
            link.symlink_to(os.path.relpath(ROOT / name, mim))


def version() -> str:
    text = (ROOT / PACKAGE / '__init__.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE).group(1)


setup(
    name='mlp-backbones',
    version=version(),
    description='All-MLP backbones (gMLP, MLP-Mixer, ResMLP, S2-MLP) for mmdet and mmseg',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='The mlp_backbones authors',
    license='Apache-2.0',
    keywords=['computer vision', 'object detection', 'segmentation', 'MLP', 'OpenMMLab'],
    python_requires='>=3.10',
    # mmengine and mmcv are imported too, and left out: two stacks provide them, and an install
    # beside either must not touch it. environment.py says what is missing.
    install_requires=['torch>=2.1', 'einops'],
    extras_require=EXTRAS,
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    package_data={'mlp_backbones.reports': ['*.html']},
    cmdclass={'build_py': BuildWithMim},
    zip_safe=False,
)
