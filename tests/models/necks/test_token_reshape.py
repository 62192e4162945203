import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.structures import InstanceData, PixelData
from torch import nn

from mlp_backbones.models.layers import build_resampling_matrix
from mlp_backbones.models.necks import CrossAttentionReshape, MLPReshape

REPO = Path(__file__).parents[3]


def mlp(in_size, out_size, **kwargs):
    return MLPReshape(in_size, out_size, **kwargs)


def attention(in_size, out_size, **kwargs):
    return CrossAttentionReshape(6, in_size, out_size, **{'num_heads': 2, 'head_dim': 8, **kwargs})


both = pytest.mark.parametrize('build', [mlp, attention])
sizes = st.tuples(st.integers(1, 7), st.integers(1, 7))


def rounded(value):
    """To the nearest integer, halves upwards."""
    return int(value + 0.5)


def kron(rows_in, rows_out, interpolation='bilinear'):
    """R(H -> H') (x) R(W -> W'), the dense matrix of a resize."""
    h, w = (
        build_resampling_matrix(i, o, interpolation)
        for i, o in zip(rows_in, rows_out, strict=True)
    )
    return torch.kron(h, w)


@both
@given(in_size=sizes, out_size=sizes, size=sizes)
def test_any_shape_becomes_any_other_in_proportion(build, in_size, out_size, size):
    layer = build(in_size, out_size)
    for h, w in (in_size, size):
        x = torch.randn(2, 6, h, w).to(memory_format=torch.channels_last)
        out = layer(x)
        expected = [
            max(1, rounded(o * n / i)) for o, n, i in zip(out_size, (h, w), in_size, strict=True)
        ]
        assert tuple(out.shape) == (2, 6, *expected)
        assert out.is_contiguous() and out.isfinite().all()
    assert tuple(layer(torch.randn(1, 6, *in_size)).shape[2:]) == out_size


@given(in_size=sizes, out_size=sizes, hidden=st.none() | st.integers(1, 9))
def test_the_mlp_multiplies_space_from_the_left(in_size, out_size, hidden):
    layer = MLPReshape(in_size, out_size, hidden).double()
    x = torch.randn(2, 5, *in_size, dtype=torch.float64)
    params = list(layer.parameters())
    tokens = x.flatten(2).mT  # (B, HW, C)
    expected = params[0] @ tokens + params[1][:, None]
    if hidden is not None:
        expected = params[2] @ nn.functional.gelu(expected) + params[3][:, None]
    torch.testing.assert_close(layer(x).flatten(2).mT, expected)
    assert params[-2].shape[0] == out_size[0] * out_size[1]
    if hidden is None:  # nothing is resampled at the native size: bit for bit
        assert torch.equal(layer(x).flatten(2), nn.functional.linear(x.flatten(2), *params))


@given(
    in_size=sizes,
    out_size=sizes,
    size=sizes,
    interpolation=st.sampled_from(['bilinear', 'bicubic']),
)
def test_at_other_sizes_the_mlp_is_the_resized_weight(in_size, out_size, size, interpolation):
    layer = MLPReshape(in_size, out_size, interpolation=interpolation).double()
    x = torch.randn(2, 5, *size, dtype=torch.float64)
    out = layer(x)
    weight, bias = layer.parameters()
    up = kron(out_size, out.shape[2:], interpolation)
    down = kron(size, in_size, interpolation)
    expected = up @ weight @ down @ x.flatten(2).mT + (up @ bias)[:, None]
    torch.testing.assert_close(out.flatten(2).mT, expected)


@given(
    in_size=sizes,
    out_size=sizes,
    size=sizes,
    heads=st.sampled_from([1, 2, 3]),
    position=st.booleans(),
)
def test_the_attention_is_softmax_of_queries_and_keys_times_values(
    in_size, out_size, size, heads, position
):
    layer = CrossAttentionReshape(
        6, in_size, out_size, out_channels=12, num_heads=heads, head_dim=8, position=position
    ).double()
    level = layer.levels[0]
    for param in level.parameters():
        nn.init.normal_(param)
    for shape in (in_size, size):
        x = torch.randn(2, 6, *shape, dtype=torch.float64)
        out = layer(x)
        tokens = x.flatten(2).mT  # (B, N, C)
        values = tokens @ level.value.weight.T + level.value.bias
        parts = []
        for i in range(heads):
            keys = tokens @ level.key.weight[8 * i : 8 * i + 8].T
            if position:
                keys = keys + kron(in_size, shape) @ level.positions[i].flatten(0, 1)
            queries = kron(out_size, out.shape[2:]) @ level.queries[i].flatten(0, 1)
            weights = torch.exp(queries @ keys.mT / 8**0.5)  # (B, N', N)
            weights = weights / weights.sum(-1, keepdim=True)
            width = 12 // heads
            parts.append(weights @ values[..., width * i : width * i + width])
        torch.testing.assert_close(out.flatten(2).mT, torch.cat(parts, -1))


def test_an_attention_starts_as_a_local_average():
    """Each query gives most weight to the keys of its own place, whatever the two grids."""
    level = attention((8, 12), (5, 6), head_dim=64).levels[0]
    weights = level.queries[0].flatten(0, 1) @ level.positions[0].flatten(0, 1).T
    place = weights.argmax(1)
    rows = torch.arange(5).repeat_interleave(6)
    columns = torch.arange(6).repeat(5)
    assert ((place // 12 + 0.5) / 8 - (rows + 0.5) / 5).abs().max() <= 0.5 / 8 + 1e-6
    assert ((place % 12 + 0.5) / 12 - (columns + 0.5) / 6).abs().max() <= 0.5 / 12 + 1e-6


def shuffled(x):
    return x.flatten(2)[..., torch.randperm(x.shape[2] * x.shape[3])].view_as(x)


@given(sizes, sizes)
def test_attention_without_positions_ignores_the_order_of_its_inputs(in_size, out_size):
    layer = attention(in_size, out_size, position=False).double()
    x = torch.randn(2, 6, *in_size, dtype=torch.float64)
    torch.testing.assert_close(layer(shuffled(x)), layer(x))


@pytest.mark.parametrize(
    'layer', [attention((4, 6), (3, 5)), mlp((4, 6), (3, 5))], ids=['attention', 'mlp']
)
def test_positions_and_the_mlp_know_the_order(layer):
    torch.manual_seed(0)
    x = torch.randn(2, 6, 4, 6)
    assert (layer(shuffled(x)) - layer(x)).abs().max() > 0.01


def test_attention_depends_on_the_data_and_the_mlp_is_linear():
    torch.manual_seed(0)
    x, y = torch.randn(2, 2, 6, 4, 6, dtype=torch.float64)
    for build, linear in ((mlp, True), (attention, False)):
        layer = build((4, 6), (3, 5)).double()
        zero = layer(torch.zeros_like(x))
        sums = layer(x + y) + zero, layer(x) + layer(y)
        assert torch.allclose(*sums, atol=1e-9) is linear


@pytest.mark.parametrize(
    'build, options',
    [(mlp, {}), (mlp, dict(hidden=7)), (attention, {}), (attention, dict(position=False))],
)
@pytest.mark.parametrize('size', [(4, 6), (9, 5)])
def test_everything_learns(build, options, size):
    layer = build((4, 6), (3, 5), **options)
    x = torch.randn(2, 6, *size, requires_grad=True)
    out = layer(x)
    (out * torch.randn_like(out)).sum().backward()
    for name, grad in [('x', x.grad), *((n, p.grad) for n, p in layer.named_parameters())]:
        assert grad is not None and grad.isfinite().all() and grad.ne(0).any(), name


@both
def test_one_layer_for_each_level(build):
    layer = build([(8, 6), (4, 3)], [(5, 5), (2, 4)])
    maps = torch.randn(2, 6, 8, 6), torch.randn(2, 6, 4, 3)
    outs = layer(maps)
    assert isinstance(outs, tuple)
    assert [tuple(o.shape) for o in outs] == [(2, 6, 5, 5), (2, 6, 2, 4)]
    for i, (x, out) in enumerate(zip(maps, outs, strict=True)):
        single = build([(8, 6), (4, 3)][i], [(5, 5), (2, 4)][i])
        single.levels[0].load_state_dict(layer.levels[i].state_dict())
        assert torch.equal(single(x), out) and torch.equal(single((x,))[0], out)


def test_channels_can_differ_by_level():
    layer = CrossAttentionReshape([4, 8], [(3, 3), (2, 2)], [(2, 2), (1, 1)], [6, 10], num_heads=2)
    outs = layer([torch.randn(1, 4, 3, 3), torch.randn(1, 8, 2, 2)])
    assert [o.shape[1] for o in outs] == [6, 10]


@both
@pytest.mark.parametrize('size', [(8, 12), (11, 5)])
def test_reduced_precision(build, size):
    layer = build((8, 12), (6, 4)).eval()
    x = torch.randn(1, 6, *size)
    with torch.autocast('cpu', torch.bfloat16):
        reduced = layer(x)
    assert reduced.dtype == torch.bfloat16 and reduced.is_contiguous()
    torch.testing.assert_close(reduced.float(), layer(x), rtol=0.1, atol=0.05)


@pytest.mark.skipif(torch.__version__ < '2.6', reason='torch 2.1 does not export this')
@both
@pytest.mark.parametrize('size', [(8, 12), (11, 5)])
def test_export(build, size):
    layer = build((8, 12), (6, 4)).eval()
    x = torch.randn(1, 6, *size)
    exported = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(exported(x), layer(x))


@both
@pytest.mark.parametrize(
    'in_size, out_size, message',
    [
        ((8, 0), (4, 4), r'in_size=\(8, 0\) must be a pair of positive integers'),
        (8, (4, 4), 'in_size=8 must be a pair'),
        ((8, 8), (4.0, 4), 'out_size=.* must be a pair'),
        ((8, 8), [], 'out_size=.* must be a pair'),
        ([(8, 8), (4, 4)], (4, 4), 'has 2 levels and out_size=.* has 1'),
    ],
)
def test_wrong_sizes(build, in_size, out_size, message):
    with pytest.raises(ValueError, match=message):
        build(in_size, out_size)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="interpolation='nearest' is unknown"):
        mlp((2, 2), (2, 2), interpolation='nearest')
    with pytest.raises(ValueError, match='hidden=0 must be a positive integer'):
        mlp((2, 2), (2, 2), hidden=0)
    with pytest.raises(ValueError, match=r'hidden=\[3, 4\] .* each of the 1 levels'):
        mlp((2, 2), (2, 2), hidden=[3, 4])
    with pytest.raises(ValueError, match='num_heads=4 does not divide the 6 output channels'):
        attention((2, 2), (2, 2), num_heads=4)
    with pytest.raises(ValueError, match='head_dim=6 must be a multiple of 4'):
        attention((2, 2), (2, 2), head_dim=6)


@both
def test_wrong_inputs(build):
    layer = build((4, 4), (3, 3))
    for maps in ([torch.rand(1, 6, 4, 4)] * 2, []):
        with pytest.raises(ValueError, match=f'has 1 levels and was given {len(maps)} maps'):
            layer(maps)
    for shape in [(6, 4, 4), (1, 6, 4, 0)]:
        with pytest.raises(ValueError, match=r'takes maps of shape \(B, '):
            layer(torch.rand(shape))
    with pytest.raises(TypeError, match='floating-point numbers, not torch.int64'):
        layer(torch.ones(1, 6, 4, 4, dtype=torch.int64))
    with pytest.raises(TypeError, match='takes a tensor or a sequence of tensors, not'):
        layer({'map': torch.rand(1, 6, 4, 4)})
    with pytest.raises(ValueError, match=r'\(B, 6, H, W\).*got \(1, 5, 4, 4\)'):
        attention((4, 4), (3, 3))(torch.rand(1, 5, 4, 4))


@both
def test_a_checkpoint_of_another_size_is_an_error_and_not_ignored(build):
    other = build((4, 4), (2, 3)).state_dict()
    with pytest.raises(ValueError, match=r'levels\.0\..* the checkpoint has shape'):
        build((4, 4), (3, 3)).load_state_dict(other, strict=False)


@pytest.fixture
def scope():
    """mmengine's default scope, put back after the test."""
    before = dict(DefaultScope._instance_dict)
    yield init_default_scope
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(before)


def test_the_documented_config_trains_a_segmentor(tmp_path, scope):
    segmentation = pytest.importorskip('mmseg.structures')
    text = (REPO / 'docs/token_reshaping.md').read_text()
    snippet = re.search(r'```python\n(_base_.*?)```', text, re.DOTALL).group(1)
    path = tmp_path / 'config.py'
    path.write_text(snippet.replace("'./", f"'{REPO}/configs/"))
    cfg = Config.fromfile(path)
    scope('mmseg')
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.norm_cfg.type = 'BN'  # SyncBN needs a GPU
    model = ROOT.build(cfg.model)
    sample = segmentation.SegDataSample(metainfo=dict(img_shape=(128, 128)))
    sample.gt_sem_seg = PixelData(data=torch.randint(0, 150, (1, 192, 96)))
    maps = model.extract_feat(torch.randn(2, 3, 128, 128))
    assert [tuple(m.shape) for m in maps] == [(2, 256, 12, 6), (2, 256, 6, 3)]
    losses = model.loss(torch.randn(2, 3, 128, 128), [sample, sample])
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    for name, param in model.neck.named_parameters():
        assert param.grad is not None and param.grad.isfinite().all(), name


@pytest.mark.parametrize('kind', ['MLPReshape', 'CrossAttentionReshape'])
def test_a_mask_rcnn_runs_with_a_neck_of_two_parts(kind, scope):
    detection = pytest.importorskip('mmdet.structures')
    masks = pytest.importorskip('mmdet.structures.mask')
    cfg = Config.fromfile(REPO / 'configs/gmlp_maskrcnn_coco.py')
    channels = [16, 24, 32, 48]
    grids = [(16, 16), (8, 8), (4, 4), (2, 2)]
    reshape = dict(type=f'mlp_backbones.{kind}', in_size=grids, out_size=grids)
    if kind == 'CrossAttentionReshape':
        reshape['in_channels'] = channels
    fpn = {**cfg.model.neck, 'in_channels': channels}
    cfg.merge_from_dict(
        dict(
            model=dict(
                backbone=dict(arch=dict(_delete_=True, channels=channels, depths=(1, 1, 1, 1))),
                neck=[reshape, fpn],
            )
        )
    )
    scope('mmdet')
    model = ROOT.build(cfg.model)
    model.init_weights()
    sample = detection.DetDataSample(
        metainfo=dict(
            img_shape=(64, 64), ori_shape=(64, 64), pad_shape=(64, 64), scale_factor=(1, 1)
        )
    )
    bitmap = torch.zeros(1, 64, 64, dtype=torch.uint8)
    bitmap[:, 8:40, 8:40] = 1
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[8.0, 8.0, 40.0, 40.0]]),
        labels=torch.tensor([3]),
        masks=masks.BitmapMasks(bitmap.numpy(), 64, 64),
    )
    losses = model.loss(torch.randn(1, 3, 64, 64), [sample])
    total = sum(sum(v) if isinstance(v, list) else v for k, v in losses.items() if 'loss' in k)
    total.backward()
    assert total.isfinite()
    assert all(p.grad is not None for p in model.neck[0].parameters())


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    argv = ['token_reshape_example.py', '--steps', '2', '--seed', '0', '1', '--out', str(tmp_path)]
    monkeypatch.setattr(sys, 'argv', argv)
    runpy.run_path(str(REPO / 'tools/token_reshape_example.py'), run_name='__main__')
    assert capsys.readouterr().out.count('| never | never | never |') == 3
    assert {p.name for p in tmp_path.iterdir()} == {
        'token_reshape_curves.png',
        'token_reshape_predictions.png',
    }
