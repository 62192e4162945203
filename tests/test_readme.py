"""What the README tells a user to do, done from a folder of the user's own."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

DETECT = """
import numpy as np
from mmdet.apis import inference_detector, init_detector

model = init_detector('config.py', device='cpu')
result = inference_detector(model, np.zeros((64, 96, 3), np.uint8))
print(type(model.backbone).__module__, result.pred_instances.masks.shape[1:])
"""


SMALL_IMAGES = """
test_dataloader = dict(dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale_factor=1.0),
    dict(type='PackDetInputs', meta_keys=('ori_shape', 'img_shape', 'scale_factor')),
]))
"""


def test_the_config_of_the_readme_detects(tmp_path):
    (config,) = re.findall(r'```python\n(_base_ = .*?)```', (ROOT / 'README.md').read_text(), re.S)
    (tmp_path / 'config.py').write_text(config + SMALL_IMAGES)
    run = subprocess.run(
        [sys.executable, '-c', DETECT], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().endswith('mlp_backbones.models.backbones.gmlp torch.Size([64, 96])')
