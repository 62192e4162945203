r"""Time and memory of backbones, side by side in one process.

    python tools/benchmark.py mmdet.SwinTransformer GMLP MLPMixer --size 800 1344
    python tools/benchmark.py 'mmdet.ResNet(depth=50)' "GMLP(arch='small')" --train --batch 2
    python tools/benchmark.py GMLP "GMLP(resolution='interpolate')" --device cuda --dtype bfloat16

A model is a registered name, by default of this package, with its arguments as in Python; or
timm's, as in "timm.mixer_b16_224". All are compared with the first. The models take turns, A B
C A B C ..., so that what else the machine does falls on all of them; a time is the median over
the rounds, a ratio the median of the rounds' ratios. Peak memory is that of a process of its own
on a CPU (resident, Python and the weights included), and of the allocator on a GPU. The part of
the peak is the rate of the model's matrix products, relative to a product of two large matrices
in the same precision on the same machine.
"""

import argparse
import ast
import contextlib
import csv
import logging
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from mlp_backbones.analysis.complexity import count_params, measure_backbone
from mlp_backbones.engine.classification import find_reference, mend_torchvision
from mlp_backbones.models.backbones.base import Backbone

HEADER = ['model', 'params M', 'GMACs', 'ms', 'ratio', 'of peak', 'memory MB', 'ratio']


class Setting(NamedTuple):
    """What every model is measured on."""

    size: tuple[int, int]
    batch: int = 1
    train: bool = False
    device: str = 'cpu'
    dtype: str = 'float32'
    compile: bool = False
    threads: int = torch.get_num_threads()
    valid: tuple[tuple[int, int], ...] = ()  # the size of each image on the canvas

    def __str__(self) -> str:
        step = 'training step' if self.train else 'forward'
        compiled = ', compiled' if self.compile else ''
        h, w = self.size
        return f'{step}, {self.batch} x {h} x {w}, {self.dtype}, {self.device}{compiled}'

    def images(self) -> str:
        sizes = ' and '.join(f'{h} x {w}' for h, w in dict.fromkeys(self.valid))
        return f'images of {sizes}'


class Figures(NamedTuple):
    """Of one model: seconds of every round, and the peak memory in bytes."""

    name: str
    params: int
    macs: int | None
    seconds: list[float]
    memory: int | None


def parse_model(text: str) -> tuple[str, dict]:
    """Registered name and arguments of ``text``, such as "GMLP(arch='nano')".

    Raises:
        ValueError: if it is no name with keyword arguments that are literals.
    """
    try:
        node = ast.parse(text, mode='eval').body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        if call.args or any(k.arg is None for k in call.keywords):
            raise ValueError
        settings = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
        name = ast.unparse(call.func)
        if not all(part.isidentifier() for part in name.split('.')):
            raise ValueError
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f'{text!r} is not a model; write a name with keyword arguments, '
            'such as GMLP or "mmdet.ResNet(depth=50)"'
        ) from error
    return name if '.' in name else f'mlp_backbones.{name}', settings


def build(text: str) -> nn.Module:
    """The model that ``text`` names."""
    name, settings = parse_model(text)
    scope, _, name_in_scope = name.partition('.')
    if scope == 'timm':
        model = import_timm().create_model(name_in_scope, **settings)
        model.forward = model.forward_features
        return model
    try:
        return MODELS.build(dict(type=name, **settings))
    except (KeyError, ImportError) as error:
        raise ValueError(f'{text!r} cannot be built: {error}') from error


@lru_cache
def import_timm():
    """timm from the path, or from where `make install` puts it beside the environment."""
    find_reference()
    mend_torchvision()
    import timm

    return timm


def make_step(model: nn.Module, setting: Setting) -> Callable[[], None]:
    """A function that runs the model once, to the end."""
    cuda = setting.device.startswith('cuda')
    model.train(setting.train)
    model.to(setting.device)
    run = torch.compile(model) if setting.compile else model
    if setting.valid:
        run = partial(run, valid_sizes=torch.tensor(setting.valid, device=setting.device))
    x = torch.randn(setting.batch, 3, *setting.size, device=setting.device)
    autocast = torch.autocast(
        setting.device.split(':')[0], getattr(torch, setting.dtype), setting.dtype != 'float32'
    )

    def step() -> None:
        with torch.set_grad_enabled(setting.train), autocast:
            outs = run(x)
            outs = [outs] if isinstance(outs, Tensor) else outs
            if setting.train:
                loss = sum(out.float().mean() for out in outs)
        if setting.train:
            loss.backward()
            model.zero_grad()
        if cuda:
            torch.cuda.synchronize()

    return step


def measure(texts: list[str], setting: Setting, rounds: int, memory: bool = True) -> list[Figures]:
    """The figures of every model, in their order."""
    torch.set_num_threads(setting.threads)
    full, cases = setting._replace(valid=()), []
    for text in texts:
        model = build(text)
        cases.append((text, model, full))
        if setting.valid and isinstance(model, Backbone):
            cases.append((text, model, setting))
    steps = [make_step(model, case) for _, model, case in cases]
    seconds = take_turns(steps, rounds)
    return [
        Figures(
            f'{text}, {case.images()}' if case.valid else text,
            count_params(model),
            count_macs(model, case),
            times,
            peak_memory(text, step, case) if memory else None,
        )
        for (text, model, case), step, times in zip(cases, steps, seconds, strict=True)
    ]


def take_turns(steps: list[Callable[[], None]], rounds: int) -> list[list[float]]:
    """Seconds of every round of each step, A B C A B C ..., after one round to warm up."""
    seconds: list[list[float]] = [[] for _ in steps]
    for step in steps:
        step()
    for _ in range(rounds):
        for step, times in zip(steps, seconds, strict=True):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
    return seconds


def count_macs(model: nn.Module, setting: Setting) -> int | None:
    try:
        return measure_backbone(model, setting.size).macs * setting.batch
    except (NotImplementedError, RuntimeError, TypeError):
        return None  # what does not run on the meta device


def peak_memory(text: str, step: Callable[[], None], setting: Setting) -> int | None:
    if setting.device.startswith('cuda'):
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated()
    if not Path('/proc/self/status').exists():
        return None
    command = [sys.executable, __file__, text, '--peak-memory', *arguments(setting)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(
            f'the process for the memory of {text} ended with {result.returncode}: '
            f'{result.stderr[-500:]}'
        )
    return int(result.stdout.split()[-1])


def arguments(setting: Setting) -> list[str]:
    """The command line of ``setting``."""
    values = dict(batch=setting.batch, dtype=setting.dtype, threads=setting.threads)
    flags = [f'--{name}={value}' for name, value in values.items()]
    flags += [f'--{name}' for name in ('train', 'compile') if getattr(setting, name)]
    if setting.valid:
        flags += ['--valid', *(str(n) for size in setting.valid for n in size)]
    return [*flags, '--size', *map(str, setting.size)]


def print_peak_memory(text: str, setting: Setting) -> None:
    """Run the model in this process, twice, and print its peak in bytes."""
    torch.set_num_threads(setting.threads)
    step = make_step(build(text), setting)
    step()
    step()
    status = Path('/proc/self/status').read_text()
    print(int(status.split('VmHWM:')[1].split()[0]) * 1024)


def peak_rate(setting: Setting, n: int = 4096) -> float:
    """Multiply-accumulates a second of a product of two n x n matrices."""
    cuda = setting.device.startswith('cuda')
    a = torch.randn(n, n, device=setting.device, dtype=getattr(torch, setting.dtype))
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        a @ a
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return n**3 / statistics.median(seconds)


def ratio(seconds: list[float], reference: list[float]) -> float:
    """The median over the rounds of the ratio of times."""
    return statistics.median(a / b for a, b in zip(seconds, reference, strict=True))


def table(measured: list[Figures], setting: Setting) -> list[list[str]]:
    peak = peak_rate(setting)
    reference = measured[0]
    rows = [HEADER]
    for f in measured:
        seconds = statistics.median(f.seconds)
        passes = 3 if setting.train else 1  # the backward pass has two products for each
        rows.append(
            [
                f.name,
                f'{f.params / 1e6:.1f}',
                f'{f.macs / 1e9:.1f}' if f.macs else '-',
                f'{1e3 * seconds:.1f}',
                f'{ratio(f.seconds, reference.seconds):.2f}',
                f'{100 * passes * f.macs / seconds / peak:.0f} %' if f.macs else '-',
                f'{f.memory / 2**20:.0f}' if f.memory else '-',
                f'{f.memory / reference.memory:.2f}' if f.memory else '-',
            ]
        )
    return rows


def markdown(rows: list[list[str]]) -> str:
    rows = [rows[0], ['---'] * len(rows[0]), *rows[1:]]
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in rows)


def describe_machine(setting: Setting) -> str:
    if setting.device.startswith('cuda'):
        name = torch.cuda.get_device_name()
    else:
        name = f'{processor()}, {setting.threads} threads'
    return f'{name}, torch {torch.__version__}, Python {platform.python_version()}'


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.split(':')[1].strip()
    return platform.processor() or platform.machine()


def write_csv(path: str, rows: list[list[str]], setting: Setting) -> None:
    with open(path, 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow([*rows[0][:4], 'time ratio', *rows[0][5:7], 'memory ratio', 'setting'])
        writer.writerows([*row, str(setting)] for row in rows[1:])


def draw(path: str, rows: list[list[str]], setting: Setting) -> None:
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    names = [row[0] for row in rows[1:]]
    figure, axes = plt.subplots(1, 2, figsize=(11, 0.5 * len(names) + 1.5), sharey=True)
    for axis, column, label in zip(axes, (3, 6), ('milliseconds', 'peak memory, MB'), strict=True):
        values = [0.0 if row[column] == '-' else float(row[column]) for row in rows[1:]]
        axis.barh(names, values, color=['#999999'] + ['#3b76af'] * (len(names) - 1))
        axis.set_xlabel(label)
    axes[0].invert_yaxis()
    figure.suptitle(str(setting), fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('models', nargs='+', help='the first is the reference of the ratios')
    parser.add_argument('--size', nargs=2, type=int, default=(512, 512), metavar=('H', 'W'))
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument(
        '--valid',
        nargs='+',
        type=int,
        default=[],
        metavar='N',
        help='height and width of each image of the batch, which does not fill the canvas: a '
        'second row for every model of ours',
    )
    parser.add_argument('--train', action='store_true', help='forward and backward pass')
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N')
    parser.add_argument('--dtype', default='float32', choices=['float32', 'bfloat16', 'float16'])
    parser.add_argument('--compile', action='store_true', help='torch.compile the models')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--rounds', type=int, default=11)
    parser.add_argument('--no-memory', action='store_true', help='times only')
    parser.add_argument('--csv', metavar='FILE')
    parser.add_argument('--plot', metavar='PNG')
    parser.add_argument('--peak-memory', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if min(*args.size, args.batch, args.threads, args.rounds) < 1:
        parser.error('--size, --batch, --threads and --rounds are at least 1')
    if args.device.split(':')[0] not in ('cpu', 'cuda'):
        parser.error(f'--device {args.device}: cpu, cuda or cuda:N')
    height, width = args.size
    args.valid = tuple(zip(args.valid[::2], args.valid[1::2], strict=False))
    if args.valid and len(args.valid) != args.batch:
        parser.error('--valid takes a height and a width for each of the --batch images')
    if any(not (1 <= h <= height and 1 <= w <= width) for h, w in args.valid):
        parser.error(f'--valid: images of 1 x 1 to {height} x {width}')
    for flag, path in (('--csv', args.csv), ('--plot', args.plot)):
        if path and not Path(path).absolute().parent.is_dir():
            parser.error(f'{flag} {path}: there is no such folder')
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        parser.error(f'--device {args.device}: torch finds no GPU here')
    return args


def main() -> None:
    args = parse_args()
    logging.disable(logging.WARNING)
    names = ('batch', 'train', 'device', 'dtype', 'compile', 'threads', 'valid')
    setting = Setting(tuple(args.size), **{name: getattr(args, name) for name in names})
    try:
        if args.peak_memory:
            return print_peak_memory(args.models[0], setting)
        for text in args.models:
            parse_model(text)
        measured = measure(args.models, setting, args.rounds, not args.no_memory)
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        sys.exit(f'benchmark.py: {error}')
    rows = table(measured, setting)
    print(f'{setting}; {describe_machine(setting)}; median of {args.rounds}')
    print(markdown(rows))
    if args.csv:
        write_csv(args.csv, rows, setting)
    if args.plot:
        draw(args.plot, rows, setting)


if __name__ == '__main__':
    main()
