"""The demo data: the same seed gives the same files, and its annotations agree."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'tools'))
import make_demo_data
from make_demo_data import CLASSES, SPLITS

COUNTS = {'train': 12, 'val': 5}
SIZE = 128


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'demo'
    assert make_demo_data.make_demo_data(root, **COUNTS, size=SIZE)
    return root


@pytest.fixture(scope='module', params=SPLITS)
def split(request):
    return request.param


@pytest.fixture(scope='module')
def coco(root, split):
    return COCO(root / 'annotations' / f'instances_{split}.json')


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob('*')
        if path.is_file()
    }


def read_map(root: Path, split: str, image: dict) -> np.ndarray:
    name = Path(image['file_name']).with_suffix('.png')
    return np.asarray(Image.open(root / 'annotations' / SPLITS[split] / name))


def test_same_seed_gives_same_bytes(root, tmp_path):
    make_demo_data.make_demo_data(tmp_path / 'again', **COUNTS, size=SIZE)
    assert contents(tmp_path / 'again') == contents(root)


def test_another_seed_gives_other_images(root, tmp_path):
    make_demo_data.make_demo_data(tmp_path / 'other', **COUNTS, size=SIZE, seed=1)
    image = 'images/training/000000.jpg'
    assert (tmp_path / 'other' / image).read_bytes() != (root / image).read_bytes()


def test_an_image_does_not_depend_on_the_number_of_images(root, tmp_path):
    make_demo_data.make_demo_data(tmp_path / 'few', train=2, val=1, size=SIZE)
    few, many = contents(tmp_path / 'few'), contents(root)
    assert all(few[name] == many[name] for name in few if name.endswith(('.jpg', '.png')))


def test_splits_differ(root):
    images = [
        np.asarray(Image.open(root / 'images' / folder / '000000.jpg'))
        for folder in SPLITS.values()
    ]
    assert not np.array_equal(*images)


def test_images_are_there_and_have_the_size(root, coco, split):
    assert len(coco.imgs) == COUNTS[split]
    for image in coco.imgs.values():
        picture = Image.open(root / 'images' / SPLITS[split] / image['file_name'])
        assert picture.mode == 'RGB'
        assert picture.size == (image['width'], image['height']) == (SIZE, SIZE)


def test_categories(coco):
    assert {cat['id']: cat['name'] for cat in coco.cats.values()} == {
        1: 'circle',
        2: 'square',
        3: 'triangle',
    }
    assert {ann['category_id'] for ann in coco.anns.values()} == {1, 2, 3}


def test_area_and_box_are_those_of_the_mask(coco):
    assert coco.anns
    for ann in coco.anns.values():
        mask = coco.annToMask(ann)
        rows, columns = np.nonzero(mask)
        x, y = columns.min(), rows.min()
        assert ann['area'] == mask.sum() >= make_demo_data.MIN_VISIBLE_PIXELS
        assert ann['bbox'] == [x, y, columns.max() + 1 - x, rows.max() + 1 - y]
        assert ann['iscrowd'] == 0


def test_semantic_map_is_the_union_of_the_masks(root, coco, split):
    for image_id, image in coco.imgs.items():
        semantic = read_map(root, split, image)
        assert semantic.dtype == np.uint8
        expected = np.zeros((SIZE, SIZE), int)
        covered = np.zeros((SIZE, SIZE), int)
        for ann in coco.imgToAnns[image_id]:
            mask = coco.annToMask(ann)
            covered += mask
            expected += mask * ann['category_id']
        assert covered.max() == 1  # visible parts do not overlap
        assert np.array_equal(semantic, expected)


def test_some_shapes_are_partly_hidden(coco):
    """Else the masks would be whole shapes, and occlusion would not be in the data."""
    boxes = [[*ann['bbox'][:2], *ann['bbox'][2:]] for ann in coco.anns.values()]
    images = [ann['image_id'] for ann in coco.anns.values()]
    overlaps = coco_mask.iou(np.array(boxes), np.array(boxes), [0] * len(boxes))
    same_image = np.equal.outer(images, images) & ~np.eye(len(images), dtype=bool)
    assert (overlaps[same_image] > 0.05).any()


@pytest.mark.parametrize('label', range(len(CLASSES)), ids=CLASSES)
def test_shape_masks_have_the_area_of_the_shape(label):
    radius = 40
    area = {
        'circle': np.pi * (0.8 * radius) ** 2,
        'square': 2 * radius**2,
        'triangle': 3 * np.sqrt(3) / 4 * radius**2,
    }[CLASSES[label]]
    for angle in (0.0, 0.3, 1.0):
        mask = make_demo_data.shape_mask(label, np.array([64.2, 63.5]), radius, angle, SIZE)
        assert mask.sum() == pytest.approx(area, rel=0.02)


def test_running_again_changes_nothing(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    assert not make_demo_data.make_demo_data(root, **COUNTS, size=SIZE)
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == before


def test_a_missing_file_is_made_again(tmp_path):
    root = tmp_path / 'demo'
    make_demo_data.make_demo_data(root, train=2, val=1)
    before = contents(root)
    (root / 'images' / 'training' / '000001.jpg').unlink()
    assert make_demo_data.make_demo_data(root, train=2, val=1)
    assert contents(root) == before


def test_other_settings_replace_the_data(tmp_path):
    root = tmp_path / 'demo'
    make_demo_data.make_demo_data(root, train=3, val=1)
    assert make_demo_data.make_demo_data(root, train=2, val=1)
    assert len(list((root / 'images' / 'training').iterdir())) == 2


def test_a_broken_run_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(make_demo_data, 'semantic_map', fail)
    with pytest.raises(KeyboardInterrupt):
        make_demo_data.make_demo_data(tmp_path / 'demo', train=2, val=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('name', 'value'),
    [('train', 0), ('val', -1), ('size', 32), ('size', 128.0), ('seed', -1), ('train', True)],
)
def test_settings_out_of_range(tmp_path, name, value):
    with pytest.raises(ValueError, match=f'{name} must be an integer of at least'):
        make_demo_data.make_demo_data(tmp_path / 'demo', **{name: value})
    assert not (tmp_path / 'demo').exists()


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='holds no demo data'):
        make_demo_data.make_demo_data(tmp_path, train=1, val=1)
    with pytest.raises(FileExistsError, match='holds no demo data'):
        make_demo_data.make_demo_data(tmp_path / 'notes.txt', train=1, val=1)
    assert [path.name for path in tmp_path.iterdir()] == ['notes.txt']
