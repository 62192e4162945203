"""The speed that this project promises on a CPU, measured: pass or fall short, bar by bar.

    python tools/benchmark_bars.py

All figures are ratios to mmdet's Swin-T, to timm, or to a dense weight, measured side by side
(see tools/benchmark.py), so that they hold on other machines too. See docs/benchmarks.md.
"""

import argparse
import logging
import math
from collections.abc import Iterator
from pathlib import Path

import benchmark
import torch
from benchmark import Setting
from mmcv.cnn import fuse_conv_bn
from torch import nn

from mlp_backbones.models.backbones.base import Backbone
from mlp_backbones.models.layers import (
    AnyResolution,
    Resolution,
    TokenLinear,
    build_resampling_matrix,
)

SWIN = 'mmdet.SwinTransformer'
FORWARD = {'GMLP': 0.70, 'MLPMixer': 0.65, 'ResMLP': 0.60, 'S2MLP': 0.65}
TRAINING = dict.fromkeys(FORWARD, 0.75)
# timm has no S2-MLP.
PLAIN = {
    "PlainGMLP(arch='s16')": 'timm.gmlp_s16_224',
    "PlainMLPMixer(arch='b16')": 'timm.mixer_b16_224',
    "PlainResMLP(arch='s24')": 'timm.resmlp_24_224',
    "PlainViT(arch='s')": 'timm.deit_small_patch16_224',
}
RESNET_18 = 'mmdet.ResNet(depth=18, base_channels=28, stem_channels=28)'
SMALL_TIMM = ('fasternet_t0', 'regnetx_002', 'mobilenetv2_100')
Bar = tuple[str, float, float]  # what it is, the figure, the most that it may be


def against_swin(setting: Setting, limits: dict[str, float], rounds: int) -> Iterator[Bar]:
    swin, *ours = benchmark.measure([SWIN, *limits], setting, rounds, memory=setting.train)
    for f in ours:
        time_ratio = benchmark.ratio(f.seconds, swin.seconds)
        yield f'{f.name}, {setting}: time', time_ratio, limits[f.name]
        if setting.train:
            yield f'{f.name}, {setting}: memory', f.memory / swin.memory, 0.75


def on_a_canvas(rounds: int) -> Iterator[Bar]:
    """Images that do not fill their canvas: 1333 on 1344, and photographs of 4:3 and 3:2."""
    for setting in (
        Setting((800, 1344), valid=((800, 1333),)),
        Setting((800, 1216), batch=2, valid=((800, 1067), (800, 1200))),
    ):
        for name in FORWARD:
            full, valid = benchmark.measure([name], setting, rounds, memory=False)
            ratio = benchmark.ratio(valid.seconds, full.seconds)
            yield f'{valid.name} / full canvas, {setting}: time', ratio, 1.10


def orientation(rounds: int) -> Iterator[Bar]:
    """What others cost there, of which nothing is promised."""
    setting = Setting((800, 1344))
    models = ['mmdet.ResNet(depth=50)', 'timm.convnext_tiny', 'timm.poolformer_s36']
    swin, *others = benchmark.measure([SWIN, *models], setting, rounds, memory=False)
    for f in others:
        yield f'{f.name}, {setting}: time', benchmark.ratio(f.seconds, swin.seconds), math.inf


def small_models(rounds: int) -> Iterator[Bar]:
    """Backbones of about 2 M parameters on one thread, of which nothing is promised."""

    def fold(model: nn.Module) -> None:
        model.eval()  # mmdet's ResNet returns None here
        model.switch_to_deploy() if isinstance(model, Backbone) else fuse_conv_bn(model)

    def channels_last(model: nn.Module) -> None:
        model.to(memory_format=torch.channels_last)

    cases = {
        'ResNet-18 of 28 channels': (RESNET_18, []),
        'ResNet-18, folded': (RESNET_18, [fold]),
        'ResNet-18, channels_last': (RESNET_18, [channels_last]),
        'ResNet-18, channels_last, folded': (RESNET_18, [fold, channels_last]),
        'ShiftGMLP nano': ("ShiftGMLP(arch='nano', pretrain_img_size=128)", []),
        'ShiftGMLP nano, folded': ("ShiftGMLP(arch='nano', pretrain_img_size=128)", [fold]),
        'ShiftGMLP pico, folded': ("ShiftGMLP(arch='pico', pretrain_img_size=128)", [fold]),
        'GMLP nano': ("GMLP(arch='nano', pretrain_img_size=128)", []),
        **{f'timm.{name}': (f'timm.{name}', []) for name in SMALL_TIMM},
    }
    models = []
    for text, changes in cases.values():
        models.append(benchmark.build(text))
        for change in changes:
            change(models[-1])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for size in ((144, 192), (360, 480), (800, 1344)):
        setting = Setting(size)
        steps = [benchmark.make_step(model, setting) for model in models]
        resnet, *others = benchmark.take_turns(steps, rounds)
        reference, *names = cases
        for name, seconds in zip(names, others, strict=True):
            text = f'{name} / {reference}, {setting}, one thread: time'
            yield text, benchmark.ratio(seconds, resnet), math.inf
    torch.set_num_threads(threads)


def against_timm(rounds: int) -> Iterator[Bar]:
    setting = Setting((224, 224), batch=8)
    for ours, theirs in PLAIN.items():
        b, a = benchmark.measure([theirs, ours], setting, rounds, memory=False)
        ratio = benchmark.ratio(a.seconds, b.seconds)
        yield f'{ours} / {theirs}, {setting}', ratio, 1.0


@torch.no_grad()
def against_the_dense_weight(rounds: int) -> Iterator[Bar]:
    """The mixing of a 14 x 14 weight on a 112 x 112 map."""
    g, n, channels = 14, 112, 96
    mixer = TokenLinear(g * g, g * g)
    adapter = AnyResolution(mixer, Resolution(g))
    x = torch.randn(1, n, n, channels)
    down, up = (torch.kron(r, r) for r in map(build_resampling_matrix, (n, g), (g, n)))
    weight = (up @ mixer.weight.double() @ down).float()
    bias = (up @ mixer.bias.double()).float()[:, None]
    ways = {
        'dense': lambda: torch.addmm(bias, weight, x.view(n * n, channels)),
        'ours': lambda: adapter(x).view(n * n, channels),
    }
    torch.testing.assert_close(ways['ours'](), ways['dense'](), rtol=1e-4, atol=1e-5)
    dense, ours = benchmark.take_turns(list(ways.values()), rounds)
    ratio = benchmark.ratio(ours, dense)
    yield f'interpolated mixing / dense weight, {n} x {n} x {channels}: time', ratio, 1 / 20


@torch.no_grad()
def mixing_memory() -> Iterator[Bar]:
    """What the mixing of a 200 x 336 map takes beside its input, in units of it."""
    mixer = TokenLinear(14 * 14, 14 * 14)
    adapter = AnyResolution(mixer, Resolution(14))
    x = torch.randn(1, 200, 336, 96)
    with torch.profiler.profile(profile_memory=True) as profile:
        out = adapter(x)
    now = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == '[memory]':
            now += event.nbytes()
            peak = max(peak, now)
    del out
    ratio = peak / (x.numel() * x.element_size())
    yield 'interpolated mixing, 200 x 336: extra memory / activation', ratio, 2.0


def growth(rounds: int) -> Iterator[Bar]:
    """Time at 16 times the pixels, divided by 16."""
    for name in FORWARD:
        model = benchmark.build(name)
        steps = [benchmark.make_step(model, Setting((n, n))) for n in (512, 2048)]
        small, large = benchmark.take_turns(steps, rounds)
        ratio = benchmark.ratio(large, small) / 16
        yield f'{name}: time at 2048 x 2048 / 512 x 512 / 16', ratio, 1.25


def bars(rounds: int) -> Iterator[Bar]:
    yield from small_models(rounds)
    yield from against_swin(Setting((800, 1344)), FORWARD, rounds)
    yield from orientation(rounds)
    yield from on_a_canvas(rounds)
    yield from against_swin(Setting((512, 512)), FORWARD, rounds)
    yield from against_swin(Setting((512, 512), batch=2, train=True), TRAINING, rounds)
    yield from against_timm(rounds)
    yield from against_the_dense_weight(rounds)
    yield from mixing_memory()
    yield from growth(max(rounds // 3, 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=9, help='of each measurement (9)')
    parser.add_argument('--small', action='store_true', help='only the models of 2 M parameters')
    parser.add_argument('--markdown', metavar='FILE', help='write the table to a file as well')
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error('--rounds is at least 1')
    logging.disable(logging.WARNING)
    print(benchmark.describe_machine(Setting((224, 224))), flush=True)
    rows = [['bar', 'measured', 'at most', 'verdict']]
    for text, figure, limit in (small_models if args.small else bars)(args.rounds):
        verdict = 'pass' if figure <= limit else 'falls short'
        if limit == math.inf:
            verdict = '-'
        rows.append([text, f'{figure:.3f}', f'{limit:.3f}', verdict])
        print(f'{verdict:12} {figure:6.3f} (at most {limit:.3f})  {text}', flush=True)
    if args.markdown:
        Path(args.markdown).write_text(benchmark.markdown(rows) + '\n')
    short = sum(row[-1] == 'falls short' for row in rows)
    passed = sum(row[-1] == 'pass' for row in rows)
    print(f'{passed} of {passed + short} bars pass')


if __name__ == '__main__':
    main()
