"""What torch and the tools around it expect of a module, of every backbone."""

import copy
import functools
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from families import classes, every, every_resolution, random_loss, resolutions, small, small_arch
from mmengine.model import ExponentialMovingAverage, revert_sync_batchnorm
from mmengine.runner import load_checkpoint, save_checkpoint
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils._python_dispatch import TorchDispatchMode

from mlp_backbones.models import (
    PlainBackbone,
    PlainGMLP,
    PlainResMLP,
    PyramidBackbone,
    ResMLP,
)
from mlp_backbones.models.layers import resampling

SIZES = [(90, 60), (31, 75)]


def weighted_leaves(model):
    return [
        m for m in model.modules() if not any(m.children()) and any(True for _ in m.parameters())
    ]


def linears(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}


def close(ours, reference, tolerance=1e-5):
    for a, b in zip(ours, reference, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


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
    model, x = small(cls), torch.randn(1, 3, 60, 75)
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
    peft = pytest.importorskip('peft')
    model, x = small(cls), torch.randn(2, 3, 90, 75)
    names = list(linears(model))
    expected = model(x, valid_sizes=sizes)
    config = peft.LoraConfig(r=2, target_modules=names, init_lora_weights=False)
    adapted = peft.get_peft_model(model, config)
    found = [n for n, m in adapted.named_modules() if hasattr(m, 'lora_A')]
    assert found == [f'base_model.model.{name}' for name in names]
    outs = adapted(x, valid_sizes=sizes)
    assert all((a - b).norm() > 0.01 * b.norm() for a, b in zip(outs, expected, strict=True))
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
    model, x = small(cls), torch.randn(2, 3, 90, 75)

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
    close(average(x), mean(x))


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
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    close(converted(x), expected, 0)
    close(revert_sync_batchnorm(converted)(x), expected, 0)


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
    reference = [o.detach() for o in model(x, valid_sizes=sizes)]
    bound = 8 * torch.finfo(dtype).eps

    def check(model, outs):
        for out, expected in zip(outs, reference, strict=True):
            assert (out.float() - expected).norm() < bound * expected.norm()
        sum(o.float().square().mean() for o in outs).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())

    with torch.autocast('cpu', dtype):
        outs = model(x, valid_sizes=sizes)
    check(model, outs)
    model = model.to(dtype)
    outs = model(x.to(dtype), valid_sizes=sizes)
    assert all(out.dtype == dtype for out in outs)
    check(model, outs)


# --- one program for every batch --------------------------------------------------------------


class Operators(TorchDispatchMode):
    """Records what runs: the names of all operators but views, and the dtypes they make."""

    def __init__(self):
        super().__init__()
        self.names, self.dtypes = [], set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.names.append(str(func))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.dtypes.add(tensor.dtype)
        return out


def operators(model, batch):
    """Those of a batch of images of different sizes, on a device that has no values to read."""
    model.to('meta').zero_grad()
    x = torch.empty(batch, 3, 90, 75, device='meta')
    sizes = torch.empty(batch, 2, dtype=torch.long, device='meta')
    with Operators() as recorded:
        sum(o.sum() for o in model(x, valid_sizes=sizes)).backward()
    return recorded


@every_resolution
def test_as_many_operators_for_many_images_as_for_two(cls, resolution):
    """Made of tensors alone: no length of an image is read, and none is float64."""
    model = small(cls, resolution=resolution)
    two, many = operators(model, 2), operators(model, 16)
    assert two.names == many.names
    assert torch.float64 not in two.dtypes | many.dtypes


@every_resolution
def test_whole_canvases_make_no_mask(cls, resolution):
    model, x = small(cls, resolution=resolution).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        model(x)  # matrices of other grids than the native one are cached
        with Operators() as without:
            model(x)
        with Operators() as full:
            model(x, valid_sizes=[(64, 64)] * 2)
    assert without.names == full.names
    if resolution != 'grid':  # its tables are made anew
        assert not any('arange' in name or 'where' in name for name in full.names)


@pytest.fixture
def graphs():
    """The graphs that torch.compile makes, which run as they are."""
    made = []

    def backend(graph, inputs):
        made.append(graph)
        return graph.forward

    torch._dynamo.reset()
    yield made, functools.partial(torch.compile, backend=backend, fullgraph=True)
    torch._dynamo.reset()


# Every mode by a plain model, which has the blocks of the pyramid of its family.
every_program = pytest.mark.parametrize(
    'cls, resolution',
    [(c, None) for c in classes(PyramidBackbone)]
    + [(c, r) for c in classes(PlainBackbone) for r in resolutions(c)],
    ids=lambda v: v.__name__ if isinstance(v, type) else str(v),
)
compiles = pytest.mark.skipif(torch.__version__ < '2.4', reason='compilers of valid sizes: 2.4')


@compiles
@every_program
def test_one_graph_for_any_valid_sizes_on_a_canvas(cls, resolution, graphs):
    made, compile = graphs
    model = small(cls, resolution=resolution).eval()
    compiled = compile(model, dynamic=False)
    x = torch.randn(2, 3, 90, 75)
    with torch.no_grad():
        for sizes in ([(90, 75), (1, 1)], SIZES, [(64, 64)] * 2, [(17, 75), (90, 3)]):
            sizes = torch.tensor(sizes)
            close(compiled(x, valid_sizes=sizes), model(x, valid_sizes=sizes), 1e-4)
            on_the_batch = x.clone()
            on_the_batch.valid_sizes = sizes
            close(compiled(on_the_batch), model(x, valid_sizes=sizes), 1e-4)
    assert len(made) <= 2  # one for each way that sizes come in


@compiles
@every
def test_three_graphs_at_most_for_canvases_of_any_size(cls, graphs):
    """The first canvas, then any height and width, then any number of images."""
    made, compile = graphs
    model = small(cls).eval()
    compiled = compile(model)
    with torch.no_grad():
        for b, h, w in ((2, 96, 75), (2, 67, 130), (3, 128, 90), (4, 75, 96)):
            x = torch.randn(b, 3, h, w)
            sizes = torch.tensor([(h, w - i) for i in range(b)])
            close(compiled(x, valid_sizes=sizes), model(x, valid_sizes=sizes), 1e-4)
    assert len(made) <= 3


@compiles
@every_program
def test_an_export_takes_other_canvases_and_sizes(cls, resolution, sizes=SIZES):
    model = small(cls, resolution=resolution).eval()
    x, sizes = torch.randn(2, 3, 90, 75), None if sizes is None else torch.tensor(sizes)
    free = torch.export.Dim.DYNAMIC
    with torch.no_grad():
        shapes = dict(x={2: free, 3: free}, valid_sizes=None)
        program = torch.export.export(model, (x, sizes), dynamic_shapes=shapes).module()
        for h, w in ((70, 133), (128, 96)):
            x = torch.randn(2, 3, h, w)
            sizes = None if sizes is None else torch.tensor([(h, w - 20), (31, w)])
            close(program(x, sizes), model(x, valid_sizes=sizes), 1e-4)


@compiles
@pytest.mark.parametrize('resolution', ['interpolate', 'window', 'grid'])
def test_an_export_takes_other_whole_canvases(resolution):
    test_an_export_takes_other_canvases_and_sizes(PlainGMLP, resolution, None)


# --- ranks ------------------------------------------------------------------------------------


def on_rank(rank, folder):
    """Gradients of one image on each of two ranks are those of both images on one."""
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', f'file://{folder}/store', rank=rank, world_size=2)
    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:  # before torch 2.6, where FSDP does not run on a CPU
        fully_shard = None

    def loss(outs):
        return sum(o.square().mean() for o in outs)

    def fsdp1(model, blocks):
        kinds = {type(block) for block in blocks}
        return FullyShardedDataParallel(
            model,
            auto_wrap_policy=ModuleWrapPolicy(kinds),
            use_orig_params=True,
            device_id=torch.device('cpu'),
        )

    def fsdp2(model, blocks):
        for module in (*blocks, model):
            fully_shard(module)
        return model

    def gradients(model):
        if isinstance(model, FullyShardedDataParallel):
            with FullyShardedDataParallel.summon_full_params(model, with_grads=True):
                return {n: p.grad.clone() for n, p in model.named_parameters()}
        full = {
            n: getattr(p.grad, 'full_tensor', lambda p=p: p.grad)()
            for n, p in model.named_parameters()
        }
        return full

    wraps = [lambda model, blocks: nn.parallel.DistributedDataParallel(model)]
    wraps += [fsdp1, fsdp2] if fully_shard else []
    x, sizes = torch.randn(2, 3, 90, 75, generator=torch.Generator().manual_seed(0)), SIZES
    for cls in classes(PyramidBackbone) + classes(PlainBackbone):
        whole = small(cls)
        loss(whole(x, valid_sizes=sizes)).backward()
        expected = {n: p.grad for n, p in whole.named_parameters()}
        for wrap in wraps:
            model = small(cls)
            blocks = [m for m in model.modules() if hasattr(m, 'drop_path')]
            model = wrap(model, blocks)
            loss(model(x[rank : rank + 1], valid_sizes=sizes[rank : rank + 1])).backward()
            for name, gradient in gradients(model).items():
                name = name.replace('_fsdp_wrapped_module.', '').replace('module.', '')
                torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)
    torch.distributed.destroy_process_group()


def test_two_ranks_have_the_gradients_of_one(tmp_path):
    torch.multiprocessing.spawn(on_rank, (str(tmp_path),), nprocs=2)
