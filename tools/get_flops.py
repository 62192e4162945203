"""Parameters and multiply-accumulates of backbones, and of the model of a config.

    python tools/get_flops.py --all
    python tools/get_flops.py --backbone GMLP --arch tiny --shape 512 512
    python tools/get_flops.py --backbone GMLP PlainGMLP --arch tiny s16 --modes
    python tools/get_flops.py configs/gmlp_maskrcnn_coco.py --shape 800 1280

Nothing is computed: models are on the meta device. What is counted: see
mlp_backbones/analysis/complexity.py.
"""

import argparse
import sys
import warnings

try:
    from mlp_backbones.engine import launch
    from mlp_backbones.engine.options import CfgOptions
except ImportError as error:
    sys.exit(f'get_flops.py: {error} (see docs/install.md)')
import torch
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope

from mlp_backbones.analysis.complexity import (
    PUBLISHED,
    Complexity,
    Published,
    measure_backbone,
    measure_model,
)
from mlp_backbones.models.backbones.base import Backbone
from mlp_backbones.models.layers import MODES
from mlp_backbones.registry import MODELS

NATIVE = (224, 224)
NOTES = """
GMACs: 1e9 multiply-accumulates for one image, of matrix products, convolutions and attention.
Papers call them FLOPs. timm's count 5 for each element of a LayerNorm as well, up to 1 % more.
+ head: with the 1000-way classifier that the published number includes; - where it does not.
"paper, in 2^20": 53.48e6 parameters, printed as 51 M. A target is the Swin Transformer that a
pyramid is as large as."""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('config', nargs='?', help='config file: count its model, part by part')
    what.add_argument('--all', action='store_true', help='every backbone of this package')
    what.add_argument('--backbone', nargs='+', metavar='CLASS', help='these backbones')
    parser.add_argument('--arch', nargs='+', help='only these presets of them')
    parser.add_argument(
        '--modes', action='store_true', help='compare the resolution modes at --shape'
    )
    parser.add_argument(
        '--shape',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='height and width of the image (default: 800 1344; 512 2048 for a segmentor)',
    )
    for flag, of in (('--options', 'the backbones'), ('--cfg-options', 'the config')):
        parser.add_argument(
            flag,
            nargs='+',
            action=CfgOptions,
            metavar='KEY=VALUE',
            help=f'change settings of {of}',
        )
    parser.add_argument('--markdown', action='store_true', help='print Markdown')
    args = parser.parse_args(argv)
    if args.config and (args.arch or args.modes or args.options):
        parser.error('--arch, --modes and --options are for --all and --backbone')
    if args.cfg_options and not args.config:
        parser.error('--cfg-options is for a config; --options changes a backbone')
    return args


def select(names: list[str] | None, archs: list[str] | None) -> list[tuple[type, str]]:
    """Classes and presets: of ``names``, or of every registered backbone.

    Raises:
        ValueError: for a class that is no backbone of this package, or a preset of none.
    """
    known = {
        k: c
        for k, c in MODELS.module_dict.items()
        if isinstance(c, type) and issubclass(c, Backbone)
    }
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f'--backbone {unknown[0]}: choose among {", ".join(known)}')
    classes = [known[name] for name in names or known]
    presets = {arch for c in classes for arch in c.presets}
    if set(archs or ()) - presets:
        raise ValueError(
            f'--arch {" ".join(archs)}: the presets of {", ".join(c.__name__ for c in classes)} '
            f'are {", ".join(sorted(presets))}'
        )
    return [(c, a) for c in classes for a in c.presets if not archs or a in archs]


def build(cls: type, arch: str, options: dict) -> Backbone:
    with torch.device('meta'):
        return cls(arch=arch, **options)


def millions(number: float, unit: float = 1e6) -> str:
    return f'{number / unit:.2f}'


def difference(measured: float, published: float | None) -> str:
    if published is None:
        return '-'
    return f'{100 * (measured / published - 1):+.1f} %'.replace('-0.0', '+0.0')


def complexity_row(cls: type, arch: str, shape: tuple[int, int], options: dict) -> list[str]:
    backbone = build(cls, arch, options)
    native, large = measure_backbone(backbone, NATIVE), measure_backbone(backbone, shape)
    last = getattr(backbone, 'channels', None) or [backbone.patch_embed.proj.out_channels]
    head = 1000 * last[-1] + 1000
    # with other options than the preset's, it is no published model
    printed = (not options and PUBLISHED.get((cls.__name__, arch))) or Published(None, None, '-')
    params = native.params + (head if printed.has_head else 0)
    return [
        cls.__name__,
        arch,
        millions(native.params),
        millions(params) if printed.has_head else '-',
        '-' if printed.params is None else f'{printed.params:g}',
        difference(params / 1e6, printed.params),
        millions(native.macs, 1e9),
        '-' if printed.gmacs is None else f'{printed.gmacs:g}',
        difference(native.macs / 1e9, printed.gmacs),
        millions(large.macs, 1e9),
        printed.source,
    ]


def complexity_table(selected, shape, options) -> list[list[str]]:
    header = ['backbone', 'arch', 'params M', '+ head', 'published', 'diff']
    header += ['GMACs 224', 'published', 'diff', f'GMACs {shape[0]} x {shape[1]}', 'published by']
    return [header, *(complexity_row(c, a, shape, options) for c, a in selected)]


def mode_row(cls: type, arch: str, shape: tuple[int, int], options: dict) -> list[str]:
    def gmacs(**resolution) -> str:
        backbone = build(cls, arch, {**options, **resolution})
        return millions(measure_backbone(backbone, shape).macs, 1e9)

    modes = [gmacs(resolution=mode) if mode in cls.modes else '-' for mode in MODES]
    default = cls.default_resolution if cls.modes else 'any'
    default = default if isinstance(default, str) else ', '.join(default)
    return [cls.__name__, arch, *modes, gmacs(), default]


def mode_table(selected, shape, options) -> list[list[str]]:
    header = [f'GMACs {shape[0]} x {shape[1]}', 'arch', *MODES, 'default', 'default mode']
    return [header, *(mode_row(c, a, shape, options) for c, a in selected)]


def config_table(path: str, shape: tuple[int, int] | None, options) -> list[list[str]]:
    """The parts of the model of a config; its backbone alone where the rest has no count."""
    cfg = launch.load_config(path, options)
    if 'backbone' not in cfg.get('model', {}):
        raise ValueError(f'{path} has no model.backbone that could be counted')
    scope = cfg.get('default_scope', 'mmengine')
    init_default_scope(scope)
    shape = shape or ((512, 2048) if scope == 'mmseg' else (800, 1344))
    model = ROOT_MODELS.build(cfg.model)
    try:
        parts = measure_model(model, shape)
        parts['all'] = Complexity(*map(sum, zip(*parts.values(), strict=True)))
    except ValueError as error:
        print(f'get_flops.py: {error} Here is its backbone.', file=sys.stderr)
        parts = {'backbone': measure_backbone(model.backbone, shape)}
    rows = [[name, millions(p.params), millions(p.macs, 1e9)] for name, p in parts.items()]
    return [[path, 'params M', f'GMACs {shape[0]} x {shape[1]}'], *rows]


def format_table(table: list[list[str]], markdown: bool) -> str:
    """The table as text; its first row is the header."""
    if markdown:
        table = [table[0], ['---'] * len(table[0]), *table[1:]]
        return '\n'.join('| ' + ' | '.join(row) + ' |' for row in table)
    columns = []
    for header, *cells in zip(*table, strict=True):
        width = max(map(len, (header, *cells)))
        align = '<' if any(cell[0].isalpha() for cell in cells) else '>'  # numbers to the right
        columns.append([f'{cell:{align}{width}}' for cell in (header, *cells)])
    return '\n'.join('  '.join(row).rstrip() for row in zip(*columns, strict=True))


def run(args: argparse.Namespace) -> str:
    """What the command line asks for, as text."""
    shape = tuple(args.shape) if args.shape else None
    if args.config:
        return format_table(config_table(args.config, shape, args.cfg_options), args.markdown)
    make = mode_table if args.modes else complexity_table
    table = make(select(args.backbone, args.arch), shape or (800, 1344), args.options or {})
    notes = '' if args.markdown or args.modes else '\n' + NOTES
    return format_table(table, args.markdown) + notes


def main() -> None:
    args = parse_args()
    warnings.simplefilter('ignore')  # of the heads that a config builds
    try:
        print(run(args))
    except (ImportError, OSError, TypeError, ValueError) as error:
        sys.exit(f'get_flops.py: {error}')


if __name__ == '__main__':
    main()
