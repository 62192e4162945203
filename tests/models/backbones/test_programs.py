"""Programs that are recorded: by torch.compile, torch.export, torch.jit.trace, and as ONNX."""

import functools

import onnxruntime
import pytest
import torch
from families import (
    COMPILES,
    SIZES,
    classes,
    close,
    compiles,
    every,
    every_resolution,
    free_sizes,
    small,
    small_arch,
)
from torch._dynamo.backends.registry import lookup_backend
from torch.utils._python_dispatch import TorchDispatchMode

from mlp_backbones.models import (
    GMLP,
    ConvMLP,
    PlainBackbone,
    PlainGMLP,
    PlainResMLP,
    PlainViT,
    PoolFormer,
    ShiftGMLP,
)

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


# Every block once: a plain model has that of the pyramid of its family.
BLOCKS = (GMLP, ShiftGMLP, PoolFormer, ConvMLP, *classes(PlainBackbone))
# Sizes that are free take a second for a few operators: every plain model, and a pyramid.
FREE = (ShiftGMLP, *classes(PlainBackbone))
# What ONNX, which takes its time, is made of: each mode, shift and topology, and a class token.
# The other exporter, further below, takes all families.
AS_ONNX = (ShiftGMLP, PlainResMLP, PlainViT)


def program_of(cls, without=()):
    """A model with one block for each mode; of the pyramids the first two stages."""
    arch = small_arch(cls)
    if issubclass(cls, PlainBackbone):
        modes = [mode for mode in cls.modes if mode not in without]
        arch['num_layers'] = max(1, len(modes))
        return small(cls, arch=arch, resolution='+'.join(modes) or None).eval()
    arch['depths'] = (1, 1, 1, 1)
    resolution = ('window', 'interpolate', 'interpolate', 'interpolate') if cls.modes else None
    return small(cls, arch=arch, resolution=resolution, out_indices=(0, 1)).eval()


@every
def test_as_many_operators_for_many_images_as_for_two(cls):
    """Made of tensors alone: no length of an image is read, and none is float64."""
    model = program_of(cls).train()
    two, many = operators(model, 2), operators(model, 16)
    assert two.names == many.names
    assert torch.float64 not in two.dtypes | many.dtypes


# --- torch.compile ----------------------------------------------------------------------------


@pytest.fixture
def graphs():
    """The graphs that torch.compile makes, which run as they are."""
    made = []

    def backend(graph, inputs, differentiate=False):
        made.append(graph)
        run = lookup_backend('aot_eager' if differentiate else 'eager')
        return run(graph, inputs)

    def compile(model, differentiate=False, **options):
        run = functools.partial(backend, differentiate=differentiate)
        return torch.compile(model, backend=run, fullgraph=COMPILES, **options)

    torch._dynamo.reset()
    yield made, compile
    torch._dynamo.reset()


@pytest.mark.slow
@compiles
@pytest.mark.parametrize('cls', FREE)
def test_one_graph_for_any_valid_sizes_on_a_canvas(cls, graphs):
    made, compile = graphs
    model = program_of(cls)
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
        close(compiled(x), model(x), 1e-4)
    assert len(made) <= 3


@pytest.mark.slow
@pytest.mark.parametrize(
    'cls, sizes',
    # without sizes no family has an operator of its own
    [(c, None) for c in (GMLP, PlainViT)]
    + [pytest.param(c, SIZES, marks=compiles) for c in BLOCKS],
    ids=lambda v: v.__name__ if isinstance(v, type) else str(v is not None),
)
def test_a_compiled_model_trains(cls, sizes, graphs):
    made, compile = graphs
    model = program_of(cls, without=['grid']).train()
    compiled = compile(model, differentiate=True, dynamic=False)
    for flip in (False, True):
        x = torch.randn(2, 3, 90, 75)
        valid = None if sizes is None else torch.tensor(sizes[::-1] if flip else sizes)
        gradients = []
        for run in (model, compiled):
            model.zero_grad()
            sum(o.square().sum() for o in run(x, valid_sizes=valid)).backward()
            gradients.append([p.grad.clone() for p in model.parameters()])
        close(*gradients, 1e-3)
    assert len(made) == 1 or not COMPILES


@pytest.mark.slow
@free_sizes
@pytest.mark.parametrize(
    'cls, valid',
    [(c, True) for c in (GMLP, ShiftGMLP, PlainViT)] + [(PlainGMLP, False)],
    ids=lambda v: v.__name__ if isinstance(v, type) else str(v),
)
def test_two_graphs_at_most_for_canvases_of_any_size(cls, valid, graphs):
    """The first canvas, then any batch, height and width."""
    made, compile = graphs
    model = program_of(cls, without=['window', 'grid', 'global'] if cls is PlainViT else [])
    compiled = compile(model)
    with torch.no_grad():
        for b, h, w in ((2, 96, 75), (3, 67, 130), (4, 128, 90), (2, 75, 96)):
            x = torch.randn(b, 3, h, w)
            sizes = torch.tensor([(h, w - i) for i in range(b)]) if valid else None
            close(compiled(x, valid_sizes=sizes), model(x, valid_sizes=sizes), 1e-4)
    assert len(made) <= 2


# --- torch.export, and ONNX from it -----------------------------------------------------------


def run_onnx(file, *inputs):
    """What onnxruntime makes of the inputs that are tensors."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(file), options)
    given = [x.numpy() for x in inputs if x is not None]
    names = [i.name for i in session.get_inputs()]
    return list(map(torch.from_numpy, session.run(None, dict(zip(names, given, strict=True)))))


@pytest.mark.slow
@free_sizes
@pytest.mark.parametrize('cls', FREE)
def test_an_export_takes_other_canvases_and_sizes(cls, tmp_path, valid=True):
    """Batch, height and width are free, and the valid sizes a second input."""
    # each mode takes three seconds, as ONNX ten: ResMLP has them all
    without = [] if cls is PlainResMLP and valid else ['window', 'grid']
    model = program_of(cls, without)
    free = torch.export.Dim.DYNAMIC
    x, sizes = torch.randn(2, 3, 90, 75), torch.tensor(SIZES) if valid else None
    shapes = dict(x={0: free, 2: free, 3: free}, valid_sizes={0: free} if valid else None)
    with torch.no_grad():
        program = torch.export.export(model, (x, sizes), dynamic_shapes=shapes)
        if cls in AS_ONNX:
            # torch's clean-up of a graph takes as long as all the rest: once will do
            settings = dict(dynamo=True, verbose=False, optimize=cls is PlainResMLP)
            torch.onnx.export(program, **settings).save(tmp_path / 'model.onnx')
        program = program.module()
        for b, h, w in ((3, 70, 133), (4, 128, 96), (2, 64, 64), (1, 3, 5)):
            x = torch.randn(b, 3, h, w)
            sizes = torch.tensor([(h, 1 + w // (i + 2)) for i in range(b)]) if valid else None
            expected = model(x, valid_sizes=sizes)
            if (h, w) > (64, 64):  # a program is for more than one window on each side
                close(program(x, sizes), expected, 1e-4)
            if cls in AS_ONNX:
                close(run_onnx(tmp_path / 'model.onnx', x, sizes), expected, 1e-4)


@pytest.mark.slow
@free_sizes
def test_an_export_takes_other_whole_canvases(tmp_path):
    test_an_export_takes_other_canvases_and_sizes(PlainResMLP, tmp_path, valid=False)


@pytest.mark.slow
@free_sizes
@every
def test_a_program_of_one_size_has_constants_for_matrices(cls):
    # grids have tables, by arithmetic
    model, x = program_of(cls, without=['grid']), torch.randn(2, 3, 90, 75)
    with torch.no_grad():
        program = torch.export.export(model, (x,))
        close(program.module()(x), model(x))
    if 'interpolate' in cls.modes or getattr(model, 'pos_embed', None):
        assert program.constants
    assert not any('arange' in str(node.target) for node in program.graph.nodes)


# --- traces, and ONNX by way of TorchScript ---------------------------------------------------


@pytest.mark.slow
@every
def test_a_trace_can_be_saved(cls, tmp_path):
    device = 'cuda' if torch.cuda.is_available() else 'cpu'  # sizes in a trace are on the CPU
    model = program_of(cls).to(device)
    x = torch.randn(1, 3, 40, 50, device=device)
    with torch.no_grad():
        torch.jit.trace(model, x).save(tmp_path / 'model.pt')
        traced = torch.jit.load(tmp_path / 'model.pt')
        for size in ((1, 40, 50), (2, 64, 64), (3, 75, 31)):  # and it is one for any size
            x = torch.randn(size[0], 3, *size[1:], device=device)
            close(traced(x), model(x), 1e-4)


@pytest.mark.slow
@every
def test_torchscript_onnx_of_one_size_takes_any_batch(cls, tmp_path):
    """The exporter that mmdeploy uses."""
    model = program_of(cls)
    file = tmp_path / 'model.onnx'
    with torch.no_grad():
        torch.onnx.export(
            model,
            torch.randn(2, 3, 90, 75),
            str(file),
            input_names=['x'],
            dynamic_axes=dict(x={0: 'batch'}),
            **(dict(dynamo=False) if torch.__version__ >= '2.5' else {}),
        )
        for batch in (1, 2, 5):
            x = torch.randn(batch, 3, 90, 75)
            close(run_onnx(file, x), model(x), 1e-4)
