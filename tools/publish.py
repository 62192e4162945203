r"""Make a training's checkpoint one to hand on: weights, classes and config, as data.

    python tools/publish.py work_dirs/gmlp_maskrcnn_coco/epoch_12.pth gmlp_tiny_maskrcnn.pth

Optimizer, logs and random states stay behind. OUT ends in .pth or .safetensors, and gets the first
eight digits of its SHA-256 before that: gmlp_tiny_maskrcnn-1a2b3c4d.pth, as torch.hub checks it.
"""

import argparse
import hashlib
import json
import os
import sys

try:
    from mlp_backbones import __version__
except ImportError as error:  # it says what to install
    sys.exit(f'publish.py: {error} (see docs/install.md)')
from mlp_backbones.checkpoints import (
    check_target,
    find_weights,
    read_checkpoint,
    refuse_not_finite,
    write_weights,
)
from mlp_backbones.checkpoints.plain_config import find_text, parse

KEPT = ('dataset_meta', 'epoch', 'iter')  # of the meta data


def parse_args() -> argparse.Namespace:
    summary, _, rest = __doc__.partition('\n')
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', help='path or address of the checkpoint')
    parser.add_argument('out', help='file to write, .pth or .safetensors')
    return parser.parse_args()


def publish(checkpoint: str, out: str) -> str:
    """Write OUT; return what to tell of it."""
    target = check_target(out)
    content = read_checkpoint(checkpoint)
    weights = find_weights(content)
    refuse_not_finite(weights, checkpoint)
    given = content.get('meta') if isinstance(content.get('meta'), dict) else {}
    meta = {name: given[name] for name in KEPT if given.get(name) is not None}
    config = find_text(content)
    if config is not None:
        parse(config)  # raises an error if it is more than data
        meta['cfg'] = config
    meta['mlp_backbones_version'] = __version__
    meta = json.loads(json.dumps(meta, default=lambda array: array.tolist()))
    part = target.with_name(f'.{target.name}.{os.getpid()}{target.suffix}')
    try:
        write_weights(part, weights, meta)
        digest = hashlib.sha256(part.read_bytes()).hexdigest()
        target = target.with_name(f'{target.stem}-{digest[:8]}{target.suffix}')
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    classes = meta.get('dataset_meta', {}).get('classes')
    return '\n'.join(
        [
            f'weights   {len(weights)}, {target.stat().st_size / 2**20:.1f} MiB',
            f'classes   {len(classes) if classes else "none in the checkpoint"}',
            f'config    {"as data" if config else "none in the checkpoint"}',
            f'sha256    {digest}',
            f'written   {target}',
        ]
    )


def main() -> None:
    args = parse_args()
    try:
        print(publish(args.checkpoint, args.out))
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f'publish.py: {error}')


if __name__ == '__main__':
    main()
