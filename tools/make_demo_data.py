"""Make the demo data: small images of overlapping shapes, annotated for both tasks.

One data root serves detection and segmentation::

    data/demo/
      images/{training,validation}/000000.jpg
      annotations/instances_{train,val}.json            COCO instances (RLE masks)
      annotations/{training,validation}/000000.png      ADE layout: 0 background, 1 to 3 shapes
      demo_data.json                                    the settings that made it

Shapes are painted back to front and a mask is the visible part of its shape, so instance masks
never overlap and the semantic map is their union. The folder appears under its name only when it
is complete; running again with the same settings changes nothing.

    python tools/make_demo_data.py data/demo
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

CLASSES = ('circle', 'square', 'triangle')
SPLITS = {'train': 'training', 'val': 'validation'}  # COCO's name, ADE's folder
SETTINGS_FILE = 'demo_data.json'
FORMAT = 2  # part of the settings: raise it when the images for a seed change

MAX_SHAPES = 6
MAX_TILT = np.radians(20)
MIN_VISIBLE_FRACTION = 0.35
MIN_VISIBLE_PIXELS = 64
MIN_CONTRAST = 60.0  # distance of two colours in RGB, 0 to 441
# Each class leans towards a colour: at 0.5 the colour alone tells 91 % of the classes. The outline
# tells them all, but UperNet from scratch does not learn it in minutes.
CLASS_COLOURS = np.array([[220, 60, 50], [60, 100, 230], [70, 200, 70]], float)
COLOUR_LEANING = 0.5


class Shape(NamedTuple):
    label: int  # index into CLASSES
    visible: np.ndarray  # (H, W) bool
    area: int  # pixels before anything was painted over it


def shape_mask(
    label: int, centre: np.ndarray, radius: float, angle: float, size: int
) -> np.ndarray:
    """Pixels whose centres lie in a shape of the given circumradius; (size, size) bool.

    At angle 0 a square has level edges and a triangle its tip on top.
    """
    xy = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1) + 0.5 - centre
    if CLASSES[label] == 'circle':
        return (xy**2).sum(-1) <= (0.8 * radius) ** 2  # about the area of the other shapes
    corners = {'square': 4, 'triangle': 3}[CLASSES[label]]
    # A regular polygon is where every edge's outward normal sees less than the inradius.
    normals = angle + np.pi / 2 + 2 * np.pi * np.arange(corners) / corners  # the first: down
    normals = np.stack([np.cos(normals), np.sin(normals)])  # (2, corners)
    return (xy @ normals).max(-1) <= radius * np.cos(np.pi / corners)


def smooth_field(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Random values in [-1, 1] that vary smoothly over `cells` cells; (size, size)."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Plain, striped, checked or cloudy brightness in [-1, 1]; (size, size)."""
    kind = rng.integers(4)
    if kind == 0:
        return np.zeros((size, size))
    if kind == 1:
        return smooth_field(rng, size, cells=size // 10 + 2)
    angle, period = rng.uniform(0, np.pi), rng.uniform(5, 12)
    y, x = np.mgrid[:size, :size] * (2 * np.pi / period)
    along = np.sign(np.sin(x * np.cos(angle) + y * np.sin(angle)))
    across = np.sign(np.sin(y * np.cos(angle) - x * np.sin(angle)))
    return along if kind == 2 else along * across


def draw_background(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A cloudy ground with a few thin strokes that belong to no class.

    Returns:
        The image (size, size, 3) and its mean colour (3,).
    """
    colour = rng.uniform(40, 215, 3)
    image = colour + 25 * smooth_field(rng, size, 5)[..., None] * rng.uniform(0.3, 1, 3)
    yx = np.mgrid[:size, :size]
    for _ in range(rng.integers(5)):
        angle, (y0, x0) = rng.uniform(0, np.pi), rng.uniform(0, size, 2)
        distance = (yx[0] - y0) * np.cos(angle) - (yx[1] - x0) * np.sin(angle)
        image[np.abs(distance) < rng.uniform(0.6, 1.6)] = rng.uniform(20, 235, 3)
    return image, colour


def place_shape(rng: np.random.Generator, shapes: list[Shape], size: int) -> list[Shape] | None:
    """The shapes after one more is painted over them; None where too little would stay visible."""
    label = int(rng.integers(len(CLASSES)))
    radius = size * rng.uniform(0.1, 0.27)
    centre = rng.uniform(0.5 * radius, size - 0.5 * radius, 2)  # some are cut by the border
    mask = shape_mask(label, centre, radius, rng.uniform(-MAX_TILT, MAX_TILT), size)
    below = [shape._replace(visible=shape.visible & ~mask) for shape in shapes]
    above = Shape(label, mask, int(mask.sum()))
    for shape in (*below, above):
        if shape.visible.sum() < max(MIN_VISIBLE_PIXELS, MIN_VISIBLE_FRACTION * shape.area):
            return None
    return [*below, above]


def shape_colour(rng: np.random.Generator, label: int) -> np.ndarray:
    """Any colour, mixed with that of the class; (3,)."""
    colour = rng.uniform(20, 235, 3)
    return COLOUR_LEANING * CLASS_COLOURS[label] + (1 - COLOUR_LEANING) * colour


def draw_scene(rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[Shape]]:
    """One image (size, size, 3) uint8 and its shapes, back to front."""
    image, ground = draw_background(rng, size)
    shapes: list[Shape] = []
    wanted = rng.integers(2, MAX_SHAPES + 1)
    while len(shapes) < wanted:
        placed = place_shape(rng, shapes, size)
        if placed is None:
            continue
        shapes = placed
        colour = shape_colour(rng, shapes[-1].label)
        while np.linalg.norm(colour - ground) < MIN_CONTRAST:
            colour = shape_colour(rng, shapes[-1].label)
        painted = colour + rng.uniform(12, 35) * texture(rng, size)[..., None]
        image[shapes[-1].visible] = painted[shapes[-1].visible]
    image += rng.normal(0, rng.uniform(2, 7), image.shape)
    return image.clip(0, 255).round().astype(np.uint8), shapes


def coco_annotations(shapes: list[Shape], image_id: int, first_id: int) -> list[dict]:
    """COCO annotations of the visible masks; area and box are those of the mask."""
    annotations = []
    for annotation_id, shape in enumerate(shapes, first_id):
        rle = coco_mask.encode(np.asfortranarray(shape.visible, dtype=np.uint8))
        annotations.append(
            {
                'id': annotation_id,
                'image_id': image_id,
                'category_id': shape.label + 1,
                'segmentation': {'size': rle['size'], 'counts': rle['counts'].decode('ascii')},
                'area': int(coco_mask.area(rle)),
                'bbox': coco_mask.toBbox(rle).tolist(),
                'iscrowd': 0,
            }
        )
    return annotations


def semantic_map(shapes: list[Shape], size: int) -> np.ndarray:
    """ADE's labels: 0 background, 1 + the class index elsewhere; (size, size) uint8."""
    labels = np.zeros((size, size), np.uint8)
    for shape in shapes:
        labels[shape.visible] = shape.label + 1
    return labels


def write_split(root: Path, split: str, count: int, seed: int, size: int) -> None:
    images, annotations = [], []
    image_dir = root / 'images' / SPLITS[split]
    label_dir = root / 'annotations' / SPLITS[split]
    image_dir.mkdir(parents=True)
    label_dir.mkdir(parents=True)
    for index in range(count):
        # Seeded one by one, so that an image depends neither on the counts nor on the others.
        rng = np.random.default_rng([seed, list(SPLITS).index(split), index])
        image, shapes = draw_scene(rng, size)
        Image.fromarray(image).save(image_dir / f'{index:06d}.jpg', quality=95)
        Image.fromarray(semantic_map(shapes, size)).save(label_dir / f'{index:06d}.png')
        image_id = index + 1
        images.append(
            {'id': image_id, 'file_name': f'{index:06d}.jpg', 'width': size, 'height': size}
        )
        annotations += coco_annotations(shapes, image_id, first_id=len(annotations) + 1)
    categories = [{'id': index, 'name': name} for index, name in enumerate(CLASSES, 1)]
    with open(root / 'annotations' / f'instances_{split}.json', 'w') as file:
        json.dump({'images': images, 'annotations': annotations, 'categories': categories}, file)


def check_settings(train: int, val: int, size: int, seed: int) -> dict:
    """The settings as they are stored with the data.

    Raises:
        ValueError: a count, the size or the seed is out of range.
    """
    for name, value, minimum in (
        ('train', train, 1),
        ('val', val, 1),
        ('size', size, 64),
        ('seed', seed, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise ValueError(f'{name} must be an integer of at least {minimum}, got {value!r}')
    return {'train': train, 'val': val, 'size': size, 'seed': seed, 'format': FORMAT}


def stored_settings(root: Path) -> dict | None:
    """The settings of the demo data in a folder; None where there is no demo data."""
    try:
        return json.loads((root / SETTINGS_FILE).read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None


def is_complete(root: Path, settings: dict) -> bool:
    """Whether the folder holds the data of these settings, with no file missing."""
    return stored_settings(root) == settings and all(
        (root / 'annotations' / f'instances_{split}.json').is_file()
        and len(list((root / 'images' / folder).glob('*.jpg'))) == settings[split]
        and len(list((root / 'annotations' / folder).glob('*.png'))) == settings[split]
        for split, folder in SPLITS.items()
    )


def make_demo_data(
    root: str | Path, train: int = 400, val: int = 100, size: int = 128, seed: int = 0
) -> bool:
    """Write the demo data to a folder, unless it is there already.

    Args:
        root: The folder to make. Demo data of other settings in it is replaced.
        train: Number of training images.
        val: Number of held-out images.
        size: Height and width of the images in pixels, at least 64.
        seed: The same seed gives the same files.

    Returns:
        Whether anything was written.

    Raises:
        ValueError: A setting is out of range.
        FileExistsError: The folder holds something else than demo data.
    """
    settings = check_settings(train, val, size, seed)
    root = Path(root)
    if is_complete(root, settings):
        return False
    if (
        root.exists()
        and stored_settings(root) is None
        and not (root.is_dir() and not any(root.iterdir()))
    ):
        raise FileExistsError(
            f'{root} exists but holds no demo data, so it is left alone. '
            'Name a folder that does not exist yet'
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    # Made beside its place and moved there in one step: a broken run leaves no half data set.
    with tempfile.TemporaryDirectory(prefix=f'.{root.name}-', dir=root.parent) as scratch:
        made = Path(scratch) / 'made'
        for split in SPLITS:
            write_split(made, split, settings[split], seed, size)
        (made / SETTINGS_FILE).write_text(json.dumps(settings) + '\n')
        if root.exists():
            root.rename(Path(scratch) / 'replaced')
        made.rename(root)
    return True


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Make the demo data: images of shapes.')
    parser.add_argument('root', nargs='?', default='data/demo', help='folder to make')
    parser.add_argument('--train', type=int, default=400, help='number of training images')
    parser.add_argument('--val', type=int, default=100, help='number of held-out images')
    parser.add_argument('--size', type=int, default=128, help='height and width in pixels')
    parser.add_argument('--seed', type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        written = make_demo_data(args.root, args.train, args.val, args.size, args.seed)
    except (ValueError, FileExistsError) as error:
        raise SystemExit(f'make_demo_data: {error}') from None
    print(
        f'{args.root}: {"made" if written else "is there already:"} '
        f'{args.train} training and {args.val} held-out images'
    )


if __name__ == '__main__':
    main()
