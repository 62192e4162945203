r"""List the images of Tiny ImageNet for configs/pretrain: train.txt and val.txt in its folder.

    python tools/prepare_tiny_imagenet.py data/tiny-imagenet-200

The folder is what http://cs231n.stanford.edu/tiny-imagenet-200.zip unpacks to. A copy may have
classes of its own after the 200 of the original in wnids.txt; they are left out.
"""

import argparse
import sys
from pathlib import Path

CLASSES, TRAIN, VAL = 200, 500, 50  # images of each class


def lists(root: Path) -> dict[str, list[str]]:
    """Lines of 'path label', for training and for validation.

    Raises:
        OSError: if a file of the data is missing.
        ValueError: if there are fewer classes or images than there should be.
    """
    names = (root / 'wnids.txt').read_text().split()[:CLASSES]
    if len(names) < CLASSES:
        raise ValueError(f'{root / "wnids.txt"} has {len(names)} classes, not {CLASSES}')
    labels = {name: i for i, name in enumerate(sorted(names))}
    train = [
        f'{path.relative_to(root).as_posix()} {label}'
        for name, label in labels.items()
        for path in sorted((root / 'train' / name / 'images').iterdir())
    ]
    val = [
        f'val/images/{name} {labels[label]}'
        for line in (root / 'val' / 'val_annotations.txt').read_text().splitlines()
        for name, label in [line.split('\t')[:2]]
        if label in labels
    ]
    missing = [line for line in val if not (root / line.split()[0]).is_file()]
    if missing or len(train) != TRAIN * CLASSES or len(val) != VAL * CLASSES:
        raise ValueError(
            f'{root} has {len(train)} images for training and {len(val) - len(missing)} for '
            f'validation, not {TRAIN * CLASSES} and {VAL * CLASSES}: unpack it again'
        )
    return dict(train=train, val=val)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='tiny-imagenet-200')
    root = parser.parse_args().folder
    try:
        for split, lines in lists(root).items():
            (root / f'{split}.txt').write_text('\n'.join(lines) + '\n')
            print(f'{root / split}.txt: {len(lines)} images of {CLASSES} classes')
    except (OSError, ValueError) as error:
        sys.exit(f'prepare_tiny_imagenet.py: {error}')


if __name__ == '__main__':
    main()
