r"""Evaluate a checkpoint of a detector or a segmentor.

    python tools/test.py configs/gmlp_maskrcnn_coco.py work_dirs/.../epoch_12.pth \
        --cfg-options data_root=/data/coco
"""

import argparse
import os
import sys

try:
    from mlp_backbones.apis.prediction import require_extra
    from mlp_backbones.engine import launch
    from mlp_backbones.engine.checkpoint_fit import check_checkpoint
    from mlp_backbones.engine.config_check import check_config, meta_of_test
    from mlp_backbones.engine.data_check import check_data
    from mlp_backbones.reports.page import read_report
except ImportError as error:
    sys.exit(f'test.py: {error} (see docs/install.md)')
from mmengine.config import Config, ConfigDict


def parse_args() -> argparse.Namespace:
    parser = launch.argument_parser(__doc__.splitlines()[0])
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out',
        metavar='PATH',
        help='keep the predictions: for detection a FILE.json of COCO results, or a FILE.pkl of '
        "mmdet's; for segmentation a folder of PNG label maps",
    )
    parser.add_argument(
        '--report',
        metavar='FOLDER',
        help='write report.html and report.json: curves, numbers by class and size, confusion '
        'matrix, the worst images',
    )
    parser.add_argument(
        '--compare',
        metavar='FOLDER',
        help='the folder of an earlier report on the same data, to stand beside this one',
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


def evaluators_of(cfg: Config) -> list[ConfigDict]:
    evaluators = cfg.test_evaluator
    return list(evaluators) if isinstance(evaluators, (list, tuple)) else [evaluators]


def keep_predictions(cfg: Config, path: str) -> None:
    if cfg.get('default_scope') == 'mmseg':
        if path.endswith(('.pkl', '.pickle', '.json')):
            raise ValueError(
                f'--out {path}: predictions of a segmentor are label maps, PNG '
                'files; give a folder'
            )
        for evaluator in evaluators_of(cfg):
            if evaluator.type == 'IoUMetric':
                evaluator.output_dir = path
    elif path.endswith('.json'):
        reporting_metric(cfg, '--out').results = path
    elif path.endswith(('.pkl', '.pickle')):
        # This metric only writes; it makes run-length codes of the masks.
        dump = ConfigDict(type='DumpDetResults', out_file_path=path)
        cfg.test_evaluator = [*evaluators_of(cfg), dump]
    else:
        raise ValueError(
            f'--out {path}: predictions of a detector go into one file; its name must end in '
            '.json or .pkl'
        )


def reporting_metric(cfg: Config, option: str) -> ConfigDict:
    """The CocoMetric of the test, turned into one that also writes."""
    for evaluator in evaluators_of(cfg):
        if evaluator.type in ('CocoMetric', 'mmdet.CocoMetric'):
            evaluator.type = 'mlp_backbones.ReportingCocoMetric'
        if evaluator.type == 'mlp_backbones.ReportingCocoMetric':
            return evaluator
    raise ValueError(f'{option} needs a CocoMetric, and {cfg.filename} has none in test_evaluator')


def make_report(cfg: Config, args: argparse.Namespace) -> None:
    require_extra('supervision', 'reports')
    is_segmentor = cfg.get('default_scope') == 'mmseg'
    report = dict(
        folder=os.path.abspath(args.report),
        config=str(args.config),
        checkpoint=args.checkpoint,
        compare=args.compare and os.path.abspath(args.compare),
    )
    if os.path.isfile(args.report):
        raise ValueError(f'--report {args.report} is a file; give a folder')
    if args.compare:
        if report['compare'] == report['folder']:
            raise ValueError(f'--compare {args.compare} is the folder that --report writes')
        kind = 'segmentation' if is_segmentor else 'detection'
        theirs, meta = read_report(args.compare, kind)['classes'], meta_of_test(cfg)
        ours = list(map(str, meta['classes'])) if meta else theirs
        if ours != theirs:
            raise ValueError(
                f'--compare {args.compare} is of {len(theirs)} classes '
                f'({", ".join(theirs[:3])}, ...), {cfg.filename} of {len(ours)} '
                f'({", ".join(ours[:3])}, ...)'
            )
    if is_segmentor:
        metric = ConfigDict(type='mlp_backbones.SegmentationReport', report=report)
        cfg.test_evaluator = [*evaluators_of(cfg), metric]
    else:
        reporting_metric(cfg, '--report').report = report


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
    if args.report:
        make_report(cfg, args)
    elif args.compare:
        raise ValueError(f'--compare {args.compare} needs --report FOLDER')
    if args.tta:
        augment_test_time(cfg)
    check_checkpoint(args.checkpoint, 'checkpoint')
    check_config(cfg)
    check_data(cfg, ['test'])
    launch.prepare_launcher(cfg)
    return cfg


if __name__ == '__main__':
    launch.run('test', test_config, parse_args())
