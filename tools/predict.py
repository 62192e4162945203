r"""Predict images and videos with a trained detector or segmentor.

    python tools/predict.py work_dirs/.../epoch_12.pth photos/ --out predictions
    python tools/predict.py CONFIG CHECKPOINT 'day?/*.jpg' clip.mp4 --score 0.5
    python tools/predict.py CHECKPOINT aerial.tif --tiles 1024

The config may be left out where the checkpoint holds it, as those of tools/train.py do.
"""

import argparse
import sys

try:
    from mlp_backbones.apis import predict
    from mlp_backbones.engine import launch
except ImportError as error:
    sys.exit(f'predict.py: {error} (see docs/install.md)')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        usage='predict.py [CONFIG] CHECKPOINT INPUT [INPUT ...] [options]',
    )
    parser.add_argument(
        'words',
        nargs='+',
        metavar='[CONFIG] CHECKPOINT INPUT',
        help='a config, which may be left out where the checkpoint holds it; a checkpoint or a '
        'name of docs/model_zoo.md; then images, videos, folders, quoted patterns, or one COCO '
        'JSON, whose ids the results will have',
    )
    parser.add_argument(
        '--out', default='predictions', help='folder of the results (default: predictions)'
    )
    parser.add_argument(
        '--score',
        type=float,
        default=0.3,
        help='what a detection must have, from 0 to 1, to be drawn and written (default: 0.3)',
    )
    parser.add_argument(
        '--tiles',
        type=int,
        metavar='PIXELS',
        help='for very large images: look at tiles of this size, too',
    )
    parser.add_argument(
        '--overlap', type=float, default=0.2, help='of the tiles, from 0 to 1 (default: 0.2)'
    )
    parser.add_argument('--img-dir', help='where the images of a COCO JSON are')
    parser.add_argument('--device', help='default: cuda:0 if there is a GPU, else cpu')
    launch.add_cfg_options(parser)
    args = parser.parse_args()
    args.config = args.words.pop(0) if args.words[0].endswith('.py') else None
    if len(args.words) < 2:
        parser.error('a checkpoint and at least one input are needed')
    args.checkpoint, *args.inputs = args.words
    return args


def main() -> None:
    args = parse_args()
    try:
        config = args.config and launch.load_config(args.config, args.cfg_options)
        done = predict(
            args.checkpoint,
            args.inputs,
            config,
            out=args.out,
            score=args.score,
            tiles=args.tiles,
            overlap=args.overlap,
            img_dir=args.img_dir,
            device=args.device,
            cfg_options=None if config else args.cfg_options,
            progress=True,
        )
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f'predict.py: {error}')
    except KeyboardInterrupt:
        sys.exit('predict.py: stopped; the same command goes on from here')
    print(done.text())
    if not done.images:
        sys.exit(1)


if __name__ == '__main__':
    main()
