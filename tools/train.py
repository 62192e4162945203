r"""Train a detector or a segmentor.

    python tools/train.py configs/gmlp_maskrcnn_coco.py \
        --cfg-options data_root=/data/coco
    python tools/train.py configs/gmlp_maskrcnn_coco.py --data my_images/
"""

import argparse
import os
import sys

try:
    from mlp_backbones.data import use_data
    from mlp_backbones.data.problems import listing
    from mlp_backbones.engine import flags, launch
    from mlp_backbones.engine.config_check import check_config
    from mlp_backbones.engine.data_check import check_data
    from mlp_backbones.engine.stopping import STARTED
    from mlp_backbones.engine.training_start import check_start, newest_of_run
except ImportError as error:
    sys.exit(f'train.py: {error} (see docs/install.md)')
from mmengine.config import Config


def parse_args() -> argparse.Namespace:
    parser = launch.argument_parser(__doc__.splitlines()[0])
    parser.add_argument(
        '--data',
        metavar='FOLDER',
        help='train on the images and classes of this folder, which has COCO annotations or '
        'label maps',
    )
    parser.add_argument(
        '--val-fraction',
        type=float,
        default=0.2,
        help='of them, how many are for validation if none are marked as such (default: 0.2)',
    )
    parser.add_argument(
        '--pretrained',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='start the backbone from this checkpoint; without a value, from the weights '
        'that this project has for it',
    )
    parser.add_argument(
        '--amp',
        nargs='?',
        const='fp16',
        choices=list(flags.AMP),
        help='train in mixed precision: fp16 (the default; needs a GPU) or bf16',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the total batch size',
    )
    parser.add_argument(
        '--skip-broken',
        action='store_true',
        help='leave out images that cannot be read or used, and count them, instead of stopping',
    )
    parser.add_argument(
        '--ema',
        action='store_true',
        help='evaluate and save a moving average of the weights',
    )
    parser.add_argument(
        '--early-stopping',
        nargs='?',
        type=int,
        const=5,
        metavar='N',
        help='end when AP or mIoU has not risen for N evaluations (default: 5)',
    )
    parser.add_argument(
        '--log',
        type=lambda names: names.split(','),
        default=[],
        metavar='NAMES',
        help=f'log to these, too: {",".join(flags.LOGGERS)}',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint; without a value, from the latest in '
        'the work dir, or from the beginning if there is none',
    )
    return launch.parse_args(parser)


def training_config(args: argparse.Namespace) -> Config:
    cfg = launch.config_from_args(args)
    if args.data:
        if 'data_root' in (args.cfg_options or {}):
            raise ValueError('--data and --cfg-options data_root both say where the data is')
        found = use_data(
            cfg, args.data, cfg.work_dir, args.val_fraction, skip_broken=args.skip_broken
        )
        if os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0':
            print('\n'.join(filter(None, [found.table(), listing(found.warnings)])), flush=True)
    if args.pretrained:
        flags.start_from_weights(cfg, args.pretrained)
    if args.amp:
        flags.enable_amp(cfg, args.amp)
    flags.check_amp(cfg)
    if args.auto_scale_lr:
        flags.enable_auto_scale_lr(cfg)
    if args.skip_broken:
        flags.enable_skipping(cfg)
    if args.ema:
        flags.enable_ema(cfg)
    if args.early_stopping is not None:
        flags.enable_early_stopping(cfg, args.early_stopping)
    flags.log_to(cfg, args.log)
    if STARTED in os.environ:  # nothing is newer the first time
        args.resume = newest_of_run(cfg, since=os.environ[STARTED]) or args.resume
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    check_config(cfg)
    check_data(cfg, ['train', 'val'])
    check_start(cfg)
    launch.prepare_launcher(cfg)
    return cfg


if __name__ == '__main__':
    launch.run('train', training_config, parse_args())
