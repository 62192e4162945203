r"""Look at every image and annotation of a data set, and tell what is wrong.

    python tools/check_dataset.py my_images/ --sheet sheet.png
    python tools/check_dataset.py configs/gmlp_maskrcnn_coco.py --json problems.json

Exit code: 0 if training will work (there may be warnings), 1 if not.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import cv2

try:
    from mlp_backbones.data.check import check_dataset
    from mlp_backbones.data.sheet import draw_sheet
    from mlp_backbones.engine import launch
except ImportError as error:
    sys.exit(f'check_dataset.py: {error} (see docs/install.md)')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        'source',
        metavar='CONFIG|FOLDER',
        help='as train.py --data takes it, or a config',
    )
    parser.add_argument('--json', metavar='FILE', help='write counts and all problems into it')
    parser.add_argument('--sheet', metavar='FILE.png', help='draw some images, with annotations')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=launch.CfgOptions,
        metavar='KEY=VALUE',
        help='as in train.py, for a config',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        for path in filter(None, (args.json, args.sheet)):  # before the work, not after
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        if args.sheet and not cv2.haveImageWriter(args.sheet):
            raise ValueError(f'--sheet {args.sheet}: its name must end in .png')
        source = args.source
        if not os.path.isdir(source):
            source = launch.load_config(source, args.cfg_options)
        report = check_dataset(source)
        print(report.text())
        if args.json:
            with open(args.json, 'w', encoding='utf-8') as file:
                json.dump(report.as_json(), file, indent=1)
        if args.sheet and not draw_sheet(report, args.sheet):
            print(f'no image could be drawn into {args.sheet}')
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f'check_dataset.py: {error}')
    sys.exit(1 if report.errors else 0)


if __name__ == '__main__':
    main()
