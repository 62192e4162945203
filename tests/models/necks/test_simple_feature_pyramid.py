import copy

import pytest
import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

from mlp_backbones.models.necks import SimpleFeaturePyramid
from mlp_backbones.models.necks.simple_feature_pyramid import LayerNorm2d
from mlp_backbones.registry import MODELS

side = st.integers(1, 30)
PLAIN_GMLP = dict(
    type='mlp_backbones.GMLP',
    arch=dict(channels=(8, 12, 16, 24), depths=(1, 1, 1, 1)),
    pretrain_img_size=64,
    out_indices=(2,),
)
NECK = dict(type='mlp_backbones.SimpleFeaturePyramid', in_channels=16, out_channels=32)


def pyramid(**kwargs):
    """A small neck whose norms have gains and biases of their own."""
    torch.manual_seed(0)
    neck = SimpleFeaturePyramid(**{**dict(in_channels=16, out_channels=12), **kwargs})
    for module in neck.modules():
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.normal_(module.weight, mean=1, std=0.2)
            torch.nn.init.normal_(module.bias, std=0.2)
    return neck


@given(side, side, st.sampled_from([7, 8, 14, 16, 32]), st.integers(0, 2))
def test_sizes_follow_the_map_and_the_strides(h, w, in_stride, extra):
    strides = (4, 8, 16, 32) if in_stride % 7 else (3.5, 7, 14, 28)
    neck = pyramid(in_stride=in_stride, out_strides=strides, num_outs=4 + extra)
    outs = neck((torch.randn(2, 16, h, w),))
    assert isinstance(outs, tuple) and len(outs) == 4 + extra
    strides += tuple(strides[-1] * 2**k for k in range(1, extra + 1))
    for stride, out in zip(strides, outs, strict=True):
        size = [-(-n * in_stride // stride) for n in (h, w)]
        assert tuple(out.shape) == (2, 12, *size)
        assert out.is_contiguous() and out.isfinite().all()


@given(st.integers(1, 400), st.sampled_from([8, 16, 32]))
def test_levels_have_the_sizes_of_a_pyramid_backbone(height, in_stride):
    """They do from in_stride on, and above it where in_stride divides the image."""
    neck = pyramid(in_stride=in_stride)
    outs = neck(torch.randn(1, 16, -(-height // in_stride), 1))
    for stride, out in zip((4, 8, 16, 32), outs, strict=True):
        excess = out.shape[2] - -(-height // stride)
        if stride >= in_stride or height % in_stride == 0:
            assert excess == 0
        assert 0 <= excess < max(in_stride // stride, 1)


def layer_norm(x, norm):
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    weight, bias = norm.weight[:, None, None], norm.bias[:, None, None]
    return (x - mean) / (var + 1e-6).sqrt() * weight + bias


def deconvolution(x, conv):
    """Each position becomes 2 x 2 of them, each by a linear layer of its own."""
    x = einsum(x, conv.weight, 'b c h w, c d i j -> b d h i w j')
    return rearrange(x, 'b d h i w j -> b d (h i) (w j)') + conv.bias[:, None, None]


def projection(x, conv1, norm1, conv3, norm3):
    assert conv1.bias is None and conv3.bias is None
    x = layer_norm(einsum(x, conv1.weight[:, :, 0, 0], 'b c h w, d c -> b d h w'), norm1)
    patches = F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)
    return layer_norm(einsum(patches, conv3.weight, 'b c h w i j, d c i j -> b d h w'), norm3)


def max_of_two_by_two(x):
    h, w = x.shape[2:]
    x = F.pad(x, (0, w % 2, 0, h % 2), value=-torch.inf)
    return rearrange(x, 'b c (h i) (w j) -> b c h w (i j)', i=2, j=2).amax(-1)


@given(side, side)
def test_each_level_is_the_paper_s(h, w):
    neck = pyramid(num_outs=5).double()
    x = torch.randn(2, 16, h, w, dtype=torch.float64)
    up1, norm, gelu, up2, *rest4 = neck.levels[0]
    up, *rest8 = neck.levels[1]
    pool, *rest32 = neck.levels[3]
    finest = deconvolution(F.gelu(layer_norm(deconvolution(x, up1), norm)), up2)
    assert (up1.out_channels, up2.out_channels, up.out_channels) == (8, 4, 8)
    coarsest = projection(max_of_two_by_two(x), *rest32)
    expected = [
        projection(finest, *rest4),
        projection(deconvolution(x, up), *rest8),
        projection(x, *neck.levels[2]),
        coarsest,
        coarsest[:, :, ::2, ::2],
    ]
    for a, b in zip(neck(x), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_other_strides_add_octaves():
    x = torch.randn(1, 16, 5, 6)
    from_32 = pyramid(in_stride=32)
    deconvs = [m for m in from_32.levels[0] if isinstance(m, torch.nn.ConvTranspose2d)]
    assert [m.out_channels for m in deconvs] == [8, 4, 2]
    assert sum(isinstance(m, torch.nn.GELU) for m in from_32.levels[0]) == 2

    from_8 = pyramid(in_stride=8)
    alone = from_8.levels[3][2:]  # without its two max-pools
    torch.testing.assert_close(
        from_8(x)[3], alone(max_of_two_by_two(max_of_two_by_two(x))).contiguous()
    )


def test_a_tensor_a_tuple_and_a_list_are_the_same_input():
    neck, x = pyramid(), torch.randn(1, 16, 4, 5)
    for a, b, c in zip(neck(x), neck((x,)), neck([x]), strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)


@pytest.mark.parametrize('in_stride', [8, 16, 32])
@pytest.mark.parametrize('norm_cfg', ['default', dict(type='GN', num_groups=2), None])
def test_every_parameter_learns(in_stride, norm_cfg):
    kwargs = {} if norm_cfg == 'default' else dict(norm_cfg=norm_cfg)
    neck = pyramid(in_stride=in_stride, **kwargs)
    x = torch.randn(2, 16, 5, 6, requires_grad=True)
    sum((o * torch.randn_like(o)).sum() for o in neck(x)).backward()
    assert x.grad.abs().sum() > 0
    for name, param in neck.named_parameters():
        assert param.grad.isfinite().all() and param.grad.abs().sum() > 0, name


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_roi_align_reads_the_levels_right(memory_format):
    """mmcv's RoIAlign ignores strides: it must see what a contiguous clone holds."""
    ops = pytest.importorskip('mmcv.ops')
    neck = pyramid(num_outs=5).to(memory_format=memory_format)
    x = torch.randn(2, 16, 12, 10).contiguous(memory_format=memory_format)
    rois = torch.tensor([[0, 3.0, 5.0, 40.0, 60.0], [1, 10.0, 1.0, 60.0, 90.0]])
    for level, out in enumerate(neck(x)):
        align = ops.RoIAlign(7, spatial_scale=1 / (4 << level), sampling_ratio=0)
        clone = out.detach().clone(memory_format=torch.contiguous_format)
        assert torch.equal(align(out.detach(), rois), align(clone, rois))
        assert out.stride() == torch.empty(out.shape).stride()


def test_bf16_autocast():
    neck, x = pyramid(), torch.randn(2, 16, 7, 9)
    with torch.autocast('cpu', torch.bfloat16):
        outs = neck(x)
        sum(o.float().pow(2).mean() for o in outs).backward()
    for low, full in zip(outs, neck(x), strict=True):
        torch.testing.assert_close(low.float(), full, rtol=0.1, atol=0.1)
    assert all(p.grad.isfinite().all() for p in neck.parameters())


def test_export_and_compile_give_the_eager_levels():
    neck, x = pyramid(num_outs=5).eval(), torch.randn(1, 16, 9, 6)
    with torch.no_grad():
        expected = neck((x,))
        exported = torch.export.export(neck, ((x,),)).module()((x,))
        compiled = torch.compile(neck, fullgraph=True, backend='aot_eager')((x,))
    for outs in (exported, compiled):
        for a, b in zip(expected, outs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_init_cfg_reaches_the_convolutions():
    neck = SimpleFeaturePyramid(16, init_cfg=dict(type='Constant', val=0.5, layer='Conv2d'))
    neck.init_weights()
    assert (neck.levels[0][-2].weight == 0.5).all()


def test_weight_decay_knows_the_norms():
    cfg = dict(optimizer=dict(type='SGD', lr=0.1, weight_decay=0.1))
    cfg['paramwise_cfg'] = dict(norm_decay_mult=0.0)
    neck = pyramid()
    norms = {id(p) for m in neck.modules() if isinstance(m, LayerNorm2d) for p in m.parameters()}
    assert norms
    for group in build_optim_wrapper(neck, cfg).optimizer.param_groups:
        for param in group['params']:
            assert group['weight_decay'] == (0 if id(param) in norms else 0.1)


def test_the_norm_is_there_for_other_configs():
    norm = MODELS.build(dict(type='LayerNorm2d', normalized_shape=6, eps=1e-6))
    x = torch.randn(2, 6, 3, 4)
    torch.testing.assert_close(norm(x), layer_norm(x, norm))


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(in_channels=0), 'in_channels=0 must be a positive'),
        (dict(in_channels=[16]), r'in_channels=\[16\] must be a positive'),
        (dict(out_channels=2.5), 'out_channels=2.5 must be a positive'),
        (dict(in_channels=18), 'in_channels=18 must be a multiple of 4: .*level of stride 4'),
        (dict(in_channels=20, in_stride=32), 'in_channels=20 must be a multiple of 8'),
        (dict(in_stride=-16), 'in_stride=-16 must be a positive'),
        (dict(in_stride=14), r'stride 4 of out_strides=\(4, 8, 16, 32\) .* in_stride=14 times'),
        (dict(out_strides=(4, 12)), r'stride 12 of out_strides=\(4, 12\)'),
        (dict(out_strides=(0, 4)), 'stride 0 of'),
        (dict(out_strides=(-4, 4)), 'stride -4 of'),
        (dict(out_strides=(4, '8')), "stride '8' of"),
        (dict(out_strides=(8, 4)), r'out_strides=\(8, 4\) must be .* rising order'),
        (dict(out_strides=(4, 4)), r'out_strides=\(4, 4\) must be .* distinct'),
        (dict(out_strides=()), r'out_strides=\(\) must be'),
        (dict(out_strides=4), 'out_strides=4 must be a sequence'),
        (dict(num_outs=3), 'num_outs=3 must be an integer of at least 4'),
        (dict(num_outs='5'), "num_outs='5' must be an integer"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        pyramid(**kwargs)


def test_bad_input_is_named():
    neck, x = pyramid(), torch.randn(1, 16, 4, 4)
    for maps in ((), (x, x), [x] * 4):
        with pytest.raises(ValueError, match=f'takes one map, not {len(maps)}; let out_indices'):
            neck(maps)
    for shape in [(16, 4, 4), (1, 8, 4, 4), (1, 16, 0, 4)]:
        with pytest.raises(ValueError, match=r'a map of shape \(B, 16, H, W\).*got'):
            neck(torch.randn(*shape))
    for wrong in (None, dict(x=x), ['x']):
        with pytest.raises(TypeError, match='takes a map, alone or in a tuple or list, not'):
            neck(wrong)


def mask_rcnn():
    """mmdet's base config with our backbone and neck, made narrow."""
    cfg = Config.fromstring("_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py']", '.py')
    changes = dict(
        backbone=dict(_delete_=True, **PLAIN_GMLP),
        neck=dict(_delete_=True, **NECK, num_outs=5),
        rpn_head=dict(in_channels=32, feat_channels=32),
        roi_head=dict(
            bbox_roi_extractor=dict(out_channels=32),
            bbox_head=dict(in_channels=32, fc_out_channels=64, num_classes=3),
            mask_roi_extractor=dict(out_channels=32),
            mask_head=dict(in_channels=32, conv_out_channels=32, num_convs=1, num_classes=3),
        ),
        test_cfg=dict(rcnn=dict(score_thr=0.0)),
    )
    cfg.merge_from_dict(dict(model=changes))
    return cfg.model


@pytest.mark.parametrize('size', [(96, 64), (77, 130)])
def test_mask_rcnn_trains_and_predicts_on_it(size):
    pytest.importorskip('mmdet')
    from mmdet.registry import MODELS as MMDET
    from mmdet.testing import demo_mm_inputs
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MMDET.build(mask_rcnn())
    assert type(model.neck) is SimpleFeaturePyramid
    batch = demo_mm_inputs(2, [(3, *size)] * 2, num_classes=3, with_mask=True)
    data = model.data_preprocessor(copy.deepcopy(batch), training=True)
    losses = model(**data, mode='loss')
    total = model.parse_losses(losses)[0]
    assert total.isfinite() and {'loss_rpn_cls', 'loss_cls', 'loss_mask'} <= losses.keys()
    total.backward()
    for name, param in model.neck.named_parameters():  # the RPN reads every level
        assert param.grad.isfinite().all() and param.grad.abs().sum() > 0, name
    assert model.backbone.patch_embed.proj.weight.grad.abs().sum() > 0

    model.eval()
    with torch.no_grad():
        results = model.test_step(batch)
    assert len(results) == 2 and len(results[0].pred_instances.masks) > 0


@pytest.mark.parametrize('size', [(64, 96), (70, 50)])
def test_upernet_trains_and_predicts_on_it(size):
    pytest.importorskip('mmseg')
    from mmengine.structures import PixelData
    from mmseg.registry import MODELS as MMSEG
    from mmseg.structures import SegDataSample
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    torch.manual_seed(0)
    head = dict(num_classes=5, channels=16, norm_cfg=dict(type='BN'), align_corners=False)
    cfg = ConfigDict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor'),
        backbone=PLAIN_GMLP,
        neck=NECK,
        decode_head=dict(
            type='UPerHead',
            in_channels=[32] * 4,
            in_index=[0, 1, 2, 3],
            pool_scales=(1, 2, 3, 6),
            **head,
        ),
        auxiliary_head=dict(type='FCNHead', in_channels=32, in_index=2, num_convs=1, **head),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MMSEG.build(cfg)
    assert type(model.neck) is SimpleFeaturePyramid
    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 5, (1, *size)))
        samples.append(sample)
    images = torch.randn(2, 3, *size)
    total = model.parse_losses(model.loss(images, samples))[0]
    assert total.isfinite()
    total.backward()
    for name, param in model.neck.named_parameters():
        assert param.grad.isfinite().all() and param.grad.abs().sum() > 0, name

    model.eval()
    with torch.no_grad():
        results = model.predict(images, samples)
    assert all(r.pred_sem_seg.data.shape == (1, *size) for r in results)
