"""Small models of every registered family."""

import pytest
import torch

from mlp_backbones.models import PlainBackbone, PyramidBackbone
from mlp_backbones.models.layers import batch_norms
from mlp_backbones.registry import MODELS


def classes(kind):
    registered = [c for c in MODELS.module_dict.values() if isinstance(c, type)]
    return [c for c in registered if issubclass(c, kind)]


def parametrized(*kinds):
    found = [c for kind in kinds for c in classes(kind)]
    return pytest.mark.parametrize('cls', found, ids=lambda c: c.__name__)


every = parametrized(PyramidBackbone, PlainBackbone)
pyramid = parametrized(PyramidBackbone)
plain = parametrized(PlainBackbone)
every_preset = pytest.mark.parametrize(
    'cls, arch',
    [
        (c, a)
        for kind in (PyramidBackbone, PlainBackbone)
        for c in classes(kind)
        for a in c.presets
    ],
    ids=lambda v: v if isinstance(v, str) else v.__name__,
)


# What an older torch cannot: tried with 2.1, 2.6 and 2.13.
COMPILES = torch.__version__ >= '2.6'
compiles = pytest.mark.skipif(not COMPILES, reason='torch before 2.6 makes no one graph of it')
free_sizes = pytest.mark.skipif(
    torch.__version__ < '2.7', reason='torch before 2.7 has no programs for any size'
)

SIZES = [(90, 60), (31, 75)]  # of two images on a canvas of 90 x 75 pixels


def small_arch(cls, width=8):
    if issubclass(cls, PyramidBackbone):
        # two blocks in the first stage that has a token-mixing grid, for modes that alternate
        depths = (1, 2, 1, 1) if cls.default_mixing_strides[0] is None else (2, 1, 1, 1)
        return dict(channels=[width * n // 2 for n in (2, 3, 4, 6)], depths=depths)
    arch = dict(embed_dims=2 * width, num_layers=3, patch_size=8)
    # what belongs to the family comes from its first preset: heads, class token, norms
    first = next(iter(cls.presets.values()))
    return {**{k: v for k, v in first.items() if k not in arch}, **arch, **HEADS.get(cls, {})}


HEADS = {MODELS.get('PlainViT'): dict(num_heads=2)}


def small(cls, **kwargs):
    """A small model, native at 64 x 64 pixels, that mixes for real."""
    torch.manual_seed(0)
    settings = dict(arch=small_arch(cls), pretrain_img_size=64, drop_path_rate=0.0)
    model = cls(**{**settings, **kwargs})
    with torch.no_grad():
        for name, param in model.named_parameters():
            if name.endswith(('sgu.proj.f.weight', 'gate.mix.f.weight')):  # start near 0
                param.normal_(std=0.1)
            if name.endswith(('gamma', 'cls_token')):
                param.uniform_(0.5, 1)
        for norm in batch_norms(model):
            norm.weight.uniform_(0.5, 1)
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.5, 1)
    return model


def fixed(model):
    """The model in training mode, but for batch norms, which would mix the images of a batch."""
    for norm in batch_norms(model.train()):
        norm.eval()
    return model


def shapes(outs):
    return [tuple(o.shape) for o in outs]


def expected_shapes(model, b, h, w):
    if isinstance(model, PyramidBackbone):
        channels = [model.channels[i] for i in model.out_indices]
        strides = [4 << i for i in model.out_indices]
    else:
        strides = [model.patch_embed.patch_size]
        channels = [model.patch_embed.proj.out_channels]
    return [(b, c, -(-h // s), -(-w // s)) for c, s in zip(channels, strides, strict=True)]


def on_canvas(images, h, w, padding=None):
    """The images in the top left corners of a batch of noise, or of the number ``padding``."""
    canvas = torch.randn(len(images), 3, h, w)
    if padding is not None:
        canvas.fill_(padding)
    for i, image in enumerate(images):
        canvas[i, :, : image.shape[1], : image.shape[2]] = image
    return canvas


def valid_part(model, maps, i, size):
    """What image ``i`` of ``size`` has in each map, and whether all beyond it is zero."""
    parts, zero = [], True
    for m, (_, _, h, w) in zip(maps, expected_shapes(model, 1, *size), strict=True):
        parts.append(m[i, :, :h, :w])
        zero = zero and not m[i, :, h:].any() and not m[i, :, :, w:].any()
    return parts, zero


def random_loss(outs):
    return sum((o * torch.randn_like(o)).sum() for o in outs)


def close(ours, reference, tolerance=1e-5):
    for a, b in zip(ours, reference, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def resolutions(cls):
    """Every mode of the family, and two that alternate."""
    return [*cls.modes, 'window+interpolate'] if cls.modes else [None]


every_resolution = pytest.mark.parametrize(
    'cls, resolution',
    [(c, r) for k in (PyramidBackbone, PlainBackbone) for c in classes(k) for r in resolutions(c)],
    ids=lambda v: v.__name__ if isinstance(v, type) else str(v),
)
