"""The examples of the documents run."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS
from reference import import_reference

from mlp_backbones import config_path
from mlp_backbones.models.layers import GRID_MODES

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / 'docs'


def code_blocks(document):
    """The Python of a document, by the file name in each block's first line."""
    text = (DOCS / document).read_text(encoding='utf-8')
    blocks = re.findall(r'^```python\n# (\S+\.py)\n(.*?)^```', text, re.DOTALL | re.MULTILINE)
    return dict(blocks)


class TestAddingAFamily:
    FAMILY, CONFIG = 'smlp.py', 'smlp_maskrcnn_coco.py'

    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        """The example's files in a folder of a user's, on the import path."""
        for name, code in code_blocks('adding_a_family.md').items():
            (tmp_path / name).write_text(code, encoding='utf-8')
        monkeypatch.syspath_prepend(tmp_path)
        before = dict(ROOT_MODELS.module_dict)
        yield tmp_path
        # the example's own classes; mmdet, if it was imported meanwhile, has registered some, too
        module = Path(self.FAMILY).stem
        for name, kind in list(ROOT_MODELS.module_dict.items()):
            if kind.__module__ == module:
                del ROOT_MODELS.module_dict[name]
        ROOT_MODELS.module_dict.update(before)
        sys.modules.pop(module, None)

    @pytest.fixture
    def backbone_cfg(self, folder):
        return Config.fromfile(folder / self.CONFIG).model.backbone

    def test_the_family_takes_fewer_than_60_lines(self):
        lines = code_blocks('adding_a_family.md')[self.FAMILY].splitlines()
        assert len(lines) + 1 < 60  # with its name

    @pytest.mark.parametrize('scope', ['', 'mlp_backbones.'])
    @pytest.mark.parametrize('resolution', GRID_MODES)
    def test_it_trains_at_an_odd_size(self, backbone_cfg, scope, resolution):
        from mmdet.registry import MODELS

        arch = dict(channels=(8, 12, 16, 24), depths=(2, 1, 1, 1))
        cfg = dict(backbone_cfg, arch=arch, pretrain_img_size=64, resolution=resolution)
        model = MODELS.build(dict(cfg, type=scope + cfg['type']))
        outs = model(torch.randn(2, 3, 61, 93))
        assert [o.shape for o in outs] == [
            (2, 8, 16, 24),
            (2, 12, 8, 12),
            (2, 16, 4, 6),
            (2, 24, 2, 3),
        ]
        sum(o.square().mean() for o in outs).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())

    def test_every_mode_is_the_mixer_itself_at_the_native_size(self, backbone_cfg):
        arch = dict(embed_dims=16, num_layers=2, patch_size=8)
        cfg = dict(type='PlainSparseMLP', arch=arch, pretrain_img_size=40)
        first, *others = (ROOT_MODELS.build(dict(cfg, resolution=m)).eval() for m in GRID_MODES)
        x = torch.randn(1, 3, 40, 40)
        with torch.no_grad():
            (expected,) = first(x)
            for model in others:
                model.load_state_dict(first.state_dict())
                assert torch.equal(model(x)[0], expected)

    def test_its_presets_build(self, backbone_cfg):
        with torch.device('meta'):
            ROOT_MODELS.build(backbone_cfg)
            ROOT_MODELS.build(dict(type='PlainSparseMLP', arch='s16'))

    def test_the_detector_of_its_config_has_it(self, folder):
        from mmdet.registry import MODELS

        cfg = Config.fromfile(folder / self.CONFIG)
        cfg.model.backbone.arch = dict(channels=(96, 192, 384, 768), depths=(1, 1, 1, 1))
        detector = MODELS.build(cfg.model)
        assert type(detector.backbone).__name__ == 'SparseMLP'
        assert detector.backbone.stages[0][0].mixer.resolution.mode == 'window'


COMMAND = re.compile(
    r'^```sh\npython tools/get_flops\.py (.*)\n```\n\n((?:\|.*\n)+)', re.MULTILINE
)
TABLES = COMMAND.findall((DOCS / 'families.md').read_text(encoding='utf-8'))


@pytest.mark.slow
def test_tables_are_what_their_commands_print(subtests, monkeypatch):
    monkeypatch.chdir(ROOT)
    tool = runpy.run_path('tools/get_flops.py')
    measure, known = tool['measure_backbone'], {}

    def measure_once(backbone, size):  # what several tables have
        key = str(backbone), size
        known[key] = known.get(key) or measure(backbone, size)
        return known[key]

    tool['run'].__globals__['measure_backbone'] = measure_once
    for command, table in TABLES:
        with subtests.test(command):
            assert tool['run'](tool['parse_args'](command.split())) + '\n' == table


def test_every_family_has_its_tables_and_its_figure():
    text = (DOCS / 'families.md').read_text(encoding='utf-8')
    assert len(TABLES) == text.count('python tools/get_flops.py') == 16
    figures = re.findall(r'\]\((images/block_\w+\.svg)\)', text)
    assert len(figures) == 8 and all((DOCS / figure).is_file() for figure in figures)


@pytest.mark.parametrize('document', sorted(path.name for path in DOCS.glob('*.md')))
def test_links_lead_to_files(document):
    text = (DOCS / document).read_text(encoding='utf-8')
    for link in re.findall(r'\]\(([^)#:]+)\)', text):
        assert (DOCS / link).exists(), link


@pytest.mark.parametrize('document', sorted(path.name for path in DOCS.glob('*.md')))
def test_the_configs_and_tools_that_it_names_are_there(document):
    text = (DOCS / document).read_text(encoding='utf-8')
    for name in re.findall(r'mlp_backbones::([\w/.-]+\.py)', text):
        assert config_path(name)
    for name in re.findall(r'(?:^|[ `$])((?:tools|tests)/\w+\.\w+)', text, re.MULTILINE):
        assert (ROOT / name).is_file(), name


def test_lora_as_in_your_project(tmp_path, capsys):
    import_reference('peft')
    (tmp_path / 'lora.py').write_text(code_blocks('your_project.md')['lora.py'])
    runpy.run_path(str(tmp_path / 'lora.py'))
    assert re.match('trainable params: [1-9]', capsys.readouterr().out)
