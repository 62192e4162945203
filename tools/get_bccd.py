r"""Fetch BCCD, images of blood cells under the MIT licence, with their boxes in COCO's format.

    python tools/get_bccd.py data/bccd
    python tools/get_bccd.py data/bccd --archive BCCD_Dataset-master.zip

364 images of 640 x 480: https://github.com/Shenggan/BCCD_Dataset. Each part, train, val and test,
becomes a folder with its images and annotations.
"""

import argparse
import json
import os
import sys
import urllib.request
import xml.etree.ElementTree as ElementTree
import zipfile
from io import BytesIO
from pathlib import Path

ADDRESS = 'https://github.com/Shenggan/BCCD_Dataset/archive/refs/heads/master.zip'
PARTS = ('train', 'val', 'test')
CLASSES = ('RBC', 'WBC', 'Platelets')
ANNOTATIONS = '_annotations.coco.json'
TIMEOUT = 30  # seconds without an answer


def is_complete(root: Path) -> bool:
    return all((root / part / ANNOTATIONS).is_file() for part in PARTS)


def get_bccd(root: Path, archive: str = ADDRESS) -> None:
    """Write the data set below ``root``.

    Args:
        archive: Address or path of the repository as a zip file.

    Raises:
        OSError: if it cannot be fetched or read.
        ValueError: if it is no such archive.
    """
    try:
        if '://' in archive:
            with urllib.request.urlopen(archive, timeout=TIMEOUT) as answer:
                content = answer.read()
        else:
            content = Path(archive).read_bytes()
    except OSError as error:
        raise OSError(
            f'{archive} cannot be fetched: {error}. Fetch it elsewhere, and give its path with '
            '--archive.'
        ) from error
    try:
        with zipfile.ZipFile(BytesIO(content)) as files:
            top = files.namelist()[0].partition('/')[0] + '/BCCD'
            for part in PARTS:
                write_part(files, top, part, root / part)
    except (zipfile.BadZipFile, KeyError, IndexError) as error:
        raise ValueError(f'{archive} is not an archive of BCCD: {error}') from error


def write_part(files: zipfile.ZipFile, top: str, part: str, folder: Path) -> None:
    """The images of a part, then their annotations, by which it is known to be complete."""
    folder.mkdir(parents=True, exist_ok=True)
    names = files.read(f'{top}/ImageSets/Main/{part}.txt').decode().split()
    images, annotations = [], []
    for i, name in enumerate(names):
        (folder / f'{name}.jpg').write_bytes(files.read(f'{top}/JPEGImages/{name}.jpg'))
        tree = ElementTree.fromstring(files.read(f'{top}/Annotations/{name}.xml'))
        width, height = (int(tree.findtext(f'size/{side}')) for side in ('width', 'height'))
        images.append(dict(id=i, file_name=f'{name}.jpg', width=width, height=height))
        for item in tree.iter('object'):
            left, top_, right, bottom = (
                int(item.findtext(f'bndbox/{side}')) for side in ('xmin', 'ymin', 'xmax', 'ymax')
            )
            box = [left - 1, top_ - 1, right - left, bottom - top_]  # Pascal VOC counts from 1
            if min(box[2:]) > 0:  # two are empty
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=i,
                        category_id=CLASSES.index(item.findtext('name')) + 1,
                        bbox=box,
                        area=box[2] * box[3],
                        iscrowd=0,
                    )
                )
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    content = dict(images=images, annotations=annotations, categories=categories)
    part_file = folder / f'.{ANNOTATIONS}'
    part_file.write_text(json.dumps(content))
    os.replace(part_file, folder / ANNOTATIONS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='where to write it')
    parser.add_argument('--archive', default=ADDRESS, help='address or path of the zip file')
    args = parser.parse_args()
    try:
        get_bccd(args.folder, args.archive)
    except (OSError, ValueError) as error:
        sys.exit(f'get_bccd.py: {error}')
    print(f'{args.folder}: {", ".join(PARTS)}')


if __name__ == '__main__':
    main()
