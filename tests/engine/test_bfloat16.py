"""A two-stage detector trains in bfloat16, for which mmcv has neither RoIAlign nor NMS."""

import pytest
import torch
from small_models import small_config

from mlp_backbones.engine.bfloat16 import BFloat16OptimWrapper


def test_a_detector_trains_in_bfloat16_on_any_device():
    pytest.importorskip('mmdet')
    from mmdet.registry import MODELS
    from mmdet.testing import demo_mm_inputs

    torch.manual_seed(0)
    model = MODELS.build(small_config('mmdet').model)
    model.init_weights()
    wrapper = BFloat16OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3))
    seen = []
    handle = model.neck.register_forward_hook(lambda part, args, maps: seen.append(maps[0].dtype))
    batch = demo_mm_inputs(2, [[3, 64, 96]] * 2, num_classes=3, with_mask=True)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    outputs = model.train_step(batch, wrapper)
    assert torch.isfinite(outputs['loss'])
    changed = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert any('backbone' in name for name in changed) and any('bbox' in name for name in changed)
    assert seen == [torch.bfloat16]
    handle.remove()
    assert not any(module._forward_hooks for module in model.modules())
