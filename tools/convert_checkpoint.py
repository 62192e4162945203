r"""Make a published checkpoint one of this package's backbones, and report what became of it.

    python tools/convert_checkpoint.py mixer_b16_224.pth mixer_b16_384.pth \
        --backbone PlainMLPMixer --arch b16 --pretrain-img-size 384

The source (timm, facebookresearch, google, mmpretrain, this package) is told from the names
of the weights. Without a backbone, DST is for the model that SRC was made with. DST ends in
.safetensors or .pth, and is only written if everything fits.
"""

import argparse
import ast
import sys

try:
    from mlp_backbones.engine import launch
except ImportError as error:
    sys.exit(f'convert_checkpoint.py: {error} (see docs/install.md)')
import torch

from mlp_backbones.checkpoints import (
    check_target,
    guess_backbone,
    load_weights,
    read_weights,
    write_weights,
)
from mlp_backbones.models.backbones.base import Backbone
from mlp_backbones.registry import MODELS


def parse_args() -> argparse.Namespace:
    summary, _, rest = __doc__.partition('\n')
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('src', help='path or address of the checkpoint')
    parser.add_argument('dst', help='file to write, .pth or .safetensors')
    target = parser.add_mutually_exclusive_group()
    target.add_argument('--config', help='config whose model.backbone DST is for')
    target.add_argument('--backbone', help='class that DST is for, such as PlainMLPMixer')
    parser.add_argument(
        '--arch', help='preset of --backbone, such as b16, or a dict: "{\'embed_dims\': 256, ...}"'
    )
    parser.add_argument(
        '--pretrain-img-size',
        type=int,
        metavar='PIXELS',
        help="side of the images that --backbone's grid is for (default: 224)",
    )
    parser.add_argument(
        '--prefix',
        help="what the names of the backbone's weights start with in SRC (default: it is found)",
    )
    return parser.parse_args()


def build_backbone(args: argparse.Namespace) -> Backbone | None:
    """The backbone of the command line on the meta device, None for that of the checkpoint."""
    if not args.backbone and (args.arch or args.pretrain_img_size):
        raise ValueError('--arch and --pretrain-img-size belong to --backbone, which is missing.')
    if args.config:
        cfg = launch.load_config(args.config).get('model', {}).get('backbone')
        if not cfg:
            raise ValueError(f'{args.config} has no model.backbone.')
        where = f'{args.config}: model.backbone'
    elif args.backbone:
        cfg = dict(type=args.backbone)
        if args.arch:
            is_dict = args.arch.lstrip().startswith('{')
            cfg['arch'] = ast.literal_eval(args.arch) if is_dict else args.arch
        if args.pretrain_img_size:
            cfg['pretrain_img_size'] = args.pretrain_img_size
        where = '--backbone'
    else:
        return None
    name = cfg['type'].removeprefix('mlp_backbones.')
    known = [
        n
        for n, cls in MODELS.module_dict.items()
        if isinstance(cls, type) and issubclass(cls, Backbone)
    ]
    if name not in known:
        raise ValueError(f'{where} {cfg["type"]} is not one of {", ".join(sorted(known))}.')
    if 'arch' not in cfg and 'Plain' in name:
        presets = ', '.join(MODELS.get(name).presets)
        raise ValueError(f'{where} {name} needs --arch: {presets}.')
    with torch.device('meta'):
        return MODELS.build({**cfg, 'type': name, 'init_cfg': None})


def convert(args: argparse.Namespace) -> str:
    """Write DST; return the report."""
    dst = check_target(args.dst)
    model = build_backbone(args)
    weights = read_weights(args.src)
    try:
        if model is None:
            model = guess_backbone(weights, args.prefix)
        # the parameters are on the meta device: none can be left with a random value
        report = load_weights(model, weights, args.prefix, assign=True)
    except ValueError as error:
        raise ValueError(f'{args.src}: {error}') from error
    meta = dict(source=report.source, checkpoint=report.checkpoint, backbone=report.backbone)
    write_weights(dst, {k: v.detach() for k, v in model.state_dict().items()}, meta)
    return f'{report}\nwritten   {dst}'


def main() -> None:
    args = parse_args()
    try:
        print(convert(args))
    except (ImportError, OSError, SyntaxError, TypeError, ValueError) as error:
        sys.exit(f'convert_checkpoint.py: {error}')


if __name__ == '__main__':
    main()
