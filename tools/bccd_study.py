r"""Does pre-training help a detector? Small ones on BCCD, from scratch and from our weights.

    python tools/get_bccd.py data/bccd
    python tools/bccd_study.py data/bccd --out bccd.csv
    python tools/bccd_study.py data/bccd --out bccd.csv --pretrained
    python tools/bccd_study.py --out bccd.csv --report

Every row trains one backbone of about 2 M parameters by configs/finetune/*_maskrcnn_5min.py, 600
iterations, and reports box AP and AP50 on the validation images. A run is one line of the CSV
file; runs that it has are not repeated. See docs/weights.md.
"""

import argparse
import sys
import time
from pathlib import Path

try:
    from mlp_backbones.checkpoints import safe_loading
except ImportError as error:
    sys.exit(f'bccd_study.py: {error} (see docs/install.md)')
import torch
from demo import quiet
from mmengine.config import Config
from mmengine.runner import Runner
from resolution_study import (
    DEFAULTS,
    PRETRAINED,
    append,
    backbone_of,
    choose,
    read_results,
    widths_of,
)

from mlp_backbones.data import use_data
from mlp_backbones.engine import launch

CONFIG = Path(__file__).resolve().parents[1] / 'configs/finetune/gmlp_maskrcnn_5min.py'
METRICS = {'box AP': 'coco/bbox_mAP', 'AP50': 'coco/bbox_mAP_50'}


def make_config(row: str, seed: int, args: argparse.Namespace) -> Config:
    options = {'randomness.seed': seed}
    if args.iters:  # the rate falls from iteration 50 on
        options |= {'train_cfg.max_iters': args.iters, 'param_scheduler.1.end': args.iters + 50}
    cfg = launch.load_config(str(CONFIG), options)
    backbone = backbone_of(row, args.pretrained)
    if '.' not in backbone['type']:
        backbone['type'] = f'mmdet.{backbone["type"]}'
    cfg.model.backbone = backbone
    cfg.model.neck.in_channels = widths_of(row)
    cfg.work_dir = str(Path(args.out).with_suffix('') / f'{DEFAULTS[row]}{args.suffix}_{seed}')
    use_data(cfg, args.data, cfg.work_dir)
    cfg.train_cfg.val_interval = cfg.train_cfg.max_iters
    cfg.default_hooks.checkpoint.interval = cfg.train_cfg.max_iters
    cfg.custom_hooks = []  # no losses of the validation images
    return cfg


def run(row: str, seed: int, args: argparse.Namespace) -> dict:
    start = time.process_time()
    with quiet(), safe_loading():
        runner = Runner.from_cfg(make_config(row, seed, args))
        runner.train()
    scalars = runner.message_hub.log_scalars
    scores = {
        name: round(100 * scalars[f'val/{key}'].current(), 1) for name, key in METRICS.items()
    }
    seconds = round(time.process_time() - start)
    return dict(row=row + args.suffix, seed=seed, iters=runner.max_iters, train_s=seconds) | scores


def report(path: Path) -> None:
    results = read_results(path)
    if not results:
        sys.exit(f'bccd_study.py: no results in {path}')
    print('| backbone | seeds |', ' | '.join(METRICS), '|')
    print('|---|---|' + '---|' * len(METRICS))
    for row in dict.fromkeys(r['row'] for r in results):
        runs = [r for r in results if r['row'] == row]
        cells = [' / '.join(r[name] for r in runs) for name in METRICS]
        print(f'| {row} | {len(runs)} |', ' | '.join(cells), '|')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data', nargs='?', type=Path, help='folder of tools/get_bccd.py')
    parser.add_argument('--out', type=Path, default=Path('bccd_study.csv'), help='CSV file')
    parser.add_argument(
        '--rows', default='', help='only the row of this name, or those that have it in theirs'
    )
    parser.add_argument('--seeds', type=int, nargs='+', default=[0], help='one run each')
    parser.add_argument('--pretrained', action='store_true', help='start from our weights')
    parser.add_argument('--iters', type=int, help="default: the config's 600")
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--report', action='store_true', help='print the table of --out')
    args = parser.parse_args()
    args.suffix = PRETRAINED if args.pretrained else ''
    if args.report:
        return report(args.out)
    if args.data is None:
        sys.exit('bccd_study.py: name the folder of tools/get_bccd.py, or give --report')
    try:
        rows = choose(DEFAULTS, args.rows)
    except ValueError as error:
        sys.exit(f'bccd_study.py: {error}')
    torch.set_num_threads(args.threads)
    for seed in args.seeds:
        for row in rows:
            done = {(r['row'], int(r['seed'])) for r in read_results(args.out)}
            if (row + args.suffix, seed) in done:
                continue
            try:
                result = run(row, seed, args)
            except (OSError, ValueError) as error:
                sys.exit(f'bccd_study.py: {error}')
            print(*result.values(), flush=True)
            append(args.out, [result])


if __name__ == '__main__':
    main()
