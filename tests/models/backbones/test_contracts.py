"""What torch and the tools around it expect of a module, of every backbone."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from families import (
    COMPILES,
    SIZES,
    classes,
    close,
    every,
    every_resolution,
    fixed,
    random_loss,
    small,
    small_arch,
)
from mmengine.model import ExponentialMovingAverage, revert_sync_batchnorm
from mmengine.runner import load_checkpoint, save_checkpoint
from reference import import_reference
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel, update_bn

from mlp_backbones.models import (
    ConvMLP,
    PlainBackbone,
    PlainResMLP,
    PlainViT,
    PyramidBackbone,
    ResMLP,
)
from mlp_backbones.models.layers import batch_norms, resampling


def weighted_leaves(model):
    return [
        m for m in model.modules() if not any(m.children()) and any(True for _ in m.parameters())
    ]


def linears(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}


# --- modules are called as modules ------------------------------------------------------------


@every_resolution
@pytest.mark.parametrize('sizes', [None, SIZES])
def test_hooks_fire_once_on_every_module_with_weights(cls, resolution, sizes):
    model = small(cls, resolution=resolution)
    fired = {'forward_pre': [], 'forward': [], 'full_backward_pre': [], 'full_backward': []}
    for m in weighted_leaves(model):
        for kind, modules in fired.items():
            register = getattr(m, f'register_{kind}_hook')
            register(lambda m, *_, modules=modules: modules.append(m))
    x = torch.randn(2, 3, 90, 75, requires_grad=True)
    random_loss(model(x, valid_sizes=sizes)).backward()
    for kind, modules in fired.items():
        assert len(modules) == len(set(modules)), kind
        assert set(modules) == set(weighted_leaves(model)), kind


@every
def test_pruning(cls):
    model, x = small(cls), torch.randn(1, 3, 60, 75)
    for m in weighted_leaves(model):
        for name in ('weight', 'alpha'):
            if hasattr(m, name):
                prune.random_unstructured(m, name, amount=0.3)
    random_loss(model(x)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    masked = model.eval()(x)
    for m in weighted_leaves(model):
        for name in ('weight', 'alpha'):
            if hasattr(m, name):
                prune.remove(m, name)
    assert any((p == 0).any() for p in model.parameters())
    close(masked, model(x))


@every
@pytest.mark.parametrize('norm', [spectral_norm, weight_norm])
def test_parametrizations(cls, norm):
    model, x = fixed(small(cls)), torch.randn(1, 3, 60, 75)
    plain = copy.deepcopy(model)
    for m in linears(model).values():
        norm(m)
    random_loss(model(x)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        model.eval()
        for name, m in linears(plain).items():
            m.weight.copy_(model.get_submodule(name).weight)
        close(model(x), plain.eval()(x))


@every
def test_dynamic_quantization(cls):
    model, x = small(cls).eval(), torch.randn(1, 3, 60, 75)
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    assert not any(type(m) is nn.Linear for m in quantized.modules())
    for a, b in zip(quantized(x), model(x), strict=True):
        assert (a - b).norm() < 0.1 * b.norm()


@every
@pytest.mark.parametrize('sizes', [None, SIZES])
def test_lora(cls, sizes):
    """Adapters on every nn.Linear: those that mix tokens (a subclass) are among them."""
    peft = import_reference('peft')
    model, x = small(cls), torch.randn(2, 3, 90, 75)
    names = list(linears(model))
    expected = model(x, valid_sizes=sizes)
    config = peft.LoraConfig(r=2, target_modules=names, init_lora_weights=False)
    adapted = peft.get_peft_model(model, config)
    found = [n for n, m in adapted.named_modules() if hasattr(m, 'lora_A')]
    assert found == [f'base_model.model.{name}' for name in names]
    outs = adapted(x, valid_sizes=sizes)
    pairs = list(zip(outs, expected, strict=True))
    if cls is ConvMLP:  # its first two maps come from convolutions
        pairs = pairs[2:]
    assert all((a - b).norm() > 0.01 * b.norm() for a, b in pairs)
    random_loss(outs).backward()
    for name, p in adapted.named_parameters():
        assert p.requires_grad == ('lora_' in name), name
        assert not p.requires_grad or p.grad.abs().sum() > 0, name
    adapted.eval()
    with torch.no_grad():
        apart = adapted(x, valid_sizes=sizes)
        merged = adapted.merge_and_unload()
        close(merged(x, valid_sizes=sizes), apart, 1e-4)
    assert list(linears(merged)) == names


# --- models as functions, copies and averages of them -----------------------------------------


@every
@pytest.mark.parametrize('sizes', [None, SIZES])
def test_functional_calls_have_gradients(cls, sizes):
    model, x = fixed(small(cls)), torch.randn(2, 3, 90, 75)

    def loss(params):
        outs = functional_call(model, params, (x,), dict(valid_sizes=sizes))
        return sum(o.square().sum() for o in outs)

    params = {name: p.detach() for name, p in model.named_parameters()}
    gradients = grad(loss)(params)
    loss(dict(model.named_parameters())).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, rtol=1e-4, atol=1e-4, msg=name)


@every
@pytest.mark.parametrize('sizes', [None, SIZES])
@pytest.mark.parametrize('training', [False, True])
def test_an_ensemble_under_vmap(cls, sizes, training):
    if cls is PlainViT and not COMPILES:
        pytest.skip('torch 2.1 has no vmap of scaled_dot_product_attention on a CPU')
    models = [small(cls).train(training) for _ in range(3)]
    with torch.no_grad():
        for n, model in enumerate(models):
            for p in model.parameters():
                p.mul_(1 + n / 10)
    x = torch.randn(2, 3, 90, 75)

    def run(params, buffers):
        return functional_call(models[0], (params, buffers), (x,), dict(valid_sizes=sizes))

    together = vmap(run)(*stack_module_state(models))
    for n, model in enumerate(models):
        close([o[n] for o in together], model(x, valid_sizes=sizes), 1e-4)


@every
def test_copies_pickles_and_state_dicts_are_the_same_model(cls, tmp_path):
    model, x = small(cls).eval(), torch.randn(1, 3, 40, 72)
    other = cls(arch=small_arch(cls), pretrain_img_size=64).eval()
    save_checkpoint(dict(state_dict=model.state_dict()), str(tmp_path / 'model.pth'))
    load_checkpoint(other, str(tmp_path / 'model.pth'), strict=True)
    torch.save(model, tmp_path / 'whole.pth')
    whole = torch.load(tmp_path / 'whole.pth', weights_only=False)
    for twin in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), whole):
        close(twin(x), model(x), 0)


@every
@pytest.mark.parametrize('averaged', [AveragedModel, ExponentialMovingAverage])
def test_averages_of_weights(cls, averaged):
    model, x = small(cls).eval(), torch.randn(1, 3, 60, 75)
    average = averaged(model)
    average.update_parameters(model)
    close(average(x), model(x))
    twin = averaged(small(cls))
    twin.load_state_dict(average.state_dict())
    close(twin.eval()(x), model(x))


@every
def test_stochastic_weight_averaging(cls):
    model, x = small(cls), torch.randn(1, 3, 60, 75)
    average, mean = AveragedModel(model), small(cls)
    for factor in (1, 3):
        with torch.no_grad():
            for p, q in zip(model.parameters(), mean.parameters(), strict=True):
                p.copy_(factor * q)
        average.update_parameters(model)
    update_bn([x], average)
    with torch.no_grad():
        for p in mean.parameters():
            p.mul_(2)
    close(average(x), mean(x), 1e-4)


@every
def test_meta_and_back(cls):
    """A model without memory gets some, and weights: how large models are put on a device."""
    model, x = small(cls).eval(), torch.randn(1, 3, 60, 75)
    with torch.device('meta'):
        born = small(cls).eval()
    for twin in (born, copy.deepcopy(model).to('meta')):
        assert all(p.is_meta for p in twin.parameters())
        twin.to_empty(device='cpu').load_state_dict(model.state_dict())
        close(twin(x), model(x), 0)
    with torch.device('meta'):
        born = small(cls).eval()
    born.load_state_dict(model.state_dict(), assign=True)
    close(born(x), model(x), 0)


@every
def test_conversion_to_sync_batchnorm_is_harmless(cls):
    model, x = small(cls).eval(), torch.randn(1, 3, 60, 75)
    expected = model(x)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model).eval()  # torch 2.1 forgets it
    close(converted(x), expected, 0)
    close(revert_sync_batchnorm(converted).eval()(x), expected, 0)


@every_resolution
def test_two_threads_at_once(cls, resolution):
    """Each with sizes of its own, on one model: what is kept between calls is safe to share."""
    model = small(cls, resolution=resolution).eval()
    batches = [(torch.randn(2, 3, 90, 75), SIZES), (torch.randn(1, 3, 41, 130), None)]
    with torch.no_grad():
        expected = [model(x, valid_sizes=sizes) for x, sizes in batches]

    def run(n):
        with torch.inference_mode():
            return [model(batches[n][0], valid_sizes=batches[n][1]) for _ in range(5)]

    resampling.cached_matrix.cache_clear()
    with ThreadPoolExecutor(2) as pool:
        for n, results in enumerate(pool.map(run, range(2))):
            for outs in results:
                close(outs, expected[n], 0)


# --- precisions -------------------------------------------------------------------------------

HALVES = [torch.bfloat16]
if tuple(map(int, torch.__version__.split('.')[:2])) >= (2, 3):  # on a CPU
    HALVES.append(torch.float16)


@pytest.mark.parametrize(
    'cls, options',
    [(c, {}) for k in (PyramidBackbone, PlainBackbone) for c in classes(k)]
    + [(c, dict(layer_scale_init=s)) for c in (ResMLP, PlainResMLP) for s in (1e-6, 1e-3, 1)],
)
@pytest.mark.parametrize('dtype', HALVES, ids=str)
@pytest.mark.parametrize('sizes', [None, SIZES])
def test_half_precision(cls, options, dtype, sizes):
    torch.manual_seed(0)
    model = cls(small_arch(cls), pretrain_img_size=64, drop_path_rate=0.0, **options)
    x = torch.randn(2, 3, 90, 75)
    weights = [torch.randn_like(o) for o in model(x, valid_sizes=sizes)]

    def run(model, x):
        model.zero_grad()
        outs = model(x, valid_sizes=sizes)
        sum((o * w).mean() for o, w in zip(outs, weights, strict=True)).backward()
        gradients = torch.cat([p.grad.float().flatten() for p in model.parameters()])
        return [o.detach() for o in outs], gradients

    reference = run(model, x)
    # a batch norm divides by what few tokens of a small map vary
    bound = (16 if batch_norms(model) else 8) * torch.finfo(dtype).eps
    # rounding may decide which number is the largest, and gets the gradient
    bounds = [*(bound for _ in weights), bound * (6 if cls is ConvMLP else 1)]

    def check(outs, gradients):
        pairs = zip((*outs, gradients), (*reference[0], reference[1]), bounds, strict=True)
        for ours, theirs, allowed in pairs:
            assert (ours.float() - theirs).norm() < allowed * theirs.norm()

    with torch.autocast('cpu', dtype):
        check(*run(model, x))
    outs, gradients = run(model.to(dtype), x.to(dtype))
    assert all(out.dtype == dtype for out in outs)
    check(outs, gradients)
