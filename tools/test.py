r"""Evaluate a checkpoint of a detector or a segmentor.

    python tools/test.py configs/gmlp_maskrcnn_coco.py work_dirs/.../epoch_12.pth \
        --cfg-options data_root=/data/coco
"""

import argparse
import os
import sys

try:
    from mlp_backbones.engine import launch
    from mlp_backbones.engine.checkpoint_fit import check_checkpoint
    from mlp_backbones.engine.config_check import check_config
    from mlp_backbones.engine.data_check import check_data
except ImportError as error:
    sys.exit(f'test.py: {error} (see docs/install.md)')
from mmengine.config import Config, ConfigDict


def parse_args() -> argparse.Namespace:
    parser = launch.argument_parser(__doc__.splitlines()[0])
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out',
        metavar='PATH',
        help='keep the predictions: a FILE.pkl for detection, a folder of PNG '
        'label maps for segmentation',
    )
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument(
        '--show-dir',
        help='save pictures of the predictions in this folder',
    )
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds for which --show shows a picture'
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help='test-time augmentation, with the tta_model and tta_pipeline of the config',
    )
    return launch.parse_args(parser)


def draw_predictions(cfg: Config, args: argparse.Namespace) -> None:
    hook = cfg.get('default_hooks', {}).get('visualization')
    if not hook:
        raise ValueError(
            '--show and --show-dir need default_hooks.visualization, which '
            f'{cfg.filename} does not have'
        )
    hook.draw = True
    if args.show:
        hook.show = True
        hook.wait_time = args.wait_time
    if args.show_dir:
        if cfg.get('default_scope') == 'mmseg':
            cfg.visualizer.save_dir = args.show_dir
        else:
            # mmdet takes a relative path from the work dir's folder of this run.
            hook.test_out_dir = os.path.abspath(args.show_dir)


def keep_predictions(cfg: Config, path: str) -> None:
    evaluators = cfg.test_evaluator
    if not isinstance(evaluators, (list, tuple)):
        evaluators = [evaluators]
    is_pickle = path.endswith(('.pkl', '.pickle'))
    if cfg.get('default_scope') == 'mmseg':
        if is_pickle:
            raise ValueError(
                f'--out {path}: predictions of a segmentor are label maps, PNG '
                'files; give a folder'
            )
        for evaluator in evaluators:
            if evaluator.type == 'IoUMetric':
                evaluator.output_dir = path
        return
    if not is_pickle:
        raise ValueError(
            f'--out {path}: predictions of a detector go into one file; its name must end in .pkl'
        )
    # This metric only writes; it makes run-length codes of the masks.
    dump = ConfigDict(type='DumpDetResults', out_file_path=path)
    cfg.test_evaluator = [*evaluators, dump]


def augment_test_time(cfg: Config) -> None:
    missing = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if missing:
        raise ValueError(
            f'--tta needs {" and ".join(missing)}, which {cfg.filename} does not have'
        )
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    dataset.pipeline = cfg.tta_pipeline


def test_config(args: argparse.Namespace) -> Config:
    cfg = launch.config_from_args(args)
    cfg.load_from = args.checkpoint
    cfg.resume = False
    if args.show or args.show_dir:
        draw_predictions(cfg, args)
    if args.out:
        keep_predictions(cfg, args.out)
    if args.tta:
        augment_test_time(cfg)
    check_checkpoint(args.checkpoint, 'checkpoint')
    check_config(cfg)
    check_data(cfg, ['test'])
    launch.prepare_launcher(cfg)
    return cfg


if __name__ == '__main__':
    launch.run('test', test_config, parse_args())
