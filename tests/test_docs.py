"""The examples of the documents run."""

import re
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS

from mlp_backbones.models.layers import GRID_MODES

DOCS = Path(__file__).resolve().parents[1] / 'docs'


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
        ROOT_MODELS.module_dict.clear()
        ROOT_MODELS.module_dict.update(before)
        sys.modules.pop(Path(self.FAMILY).stem, None)

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

    def test_its_presets_build_and_every_mode_is_the_mixer_at_the_native_size(self, backbone_cfg):
        x = torch.randn(1, 3, 224, 224)
        model = ROOT_MODELS.build(dict(type='PlainSparseMLP', arch='s16')).eval()
        expected = None
        for mode in GRID_MODES:
            other = ROOT_MODELS.build(dict(type='PlainSparseMLP', arch='s16', resolution=mode))
            other.load_state_dict(model.state_dict())
            with torch.no_grad():
                (out,) = other.eval()(x)
            expected = out if expected is None else expected
            assert torch.equal(out, expected)
        with torch.device('meta'):
            ROOT_MODELS.build(backbone_cfg)

    def test_the_detector_of_its_config_has_it(self, folder):
        from mmdet.registry import MODELS

        cfg = Config.fromfile(folder / self.CONFIG)
        cfg.model.backbone.arch = dict(channels=(96, 192, 384, 768), depths=(1, 1, 1, 1))
        detector = MODELS.build(cfg.model)
        assert type(detector.backbone).__name__ == 'SparseMLP'
        assert detector.backbone.stages[0][0].adapter.mode == 'window'
