"""tools/predict.py and mlp_backbones.apis.predict: what they find, write, skip and refuse."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from small_models import CLASSES, CONFIGS, PALETTE, ROOT, save_small

from mlp_backbones.apis import predict, prediction
from mlp_backbones.predictions import models
from mlp_backbones.predictions.inputs import find_inputs
from mlp_backbones.predictions.models import cuts


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """Of a detector and of a segmentor: {scope: path}."""
    folder = tmp_path_factory.mktemp('w')
    return {scope: save_small(scope, folder / f'{scope}.pth') for scope in CONFIGS}


@pytest.fixture
def images(tmp_path):
    """Three images, in two folders, one of a kind that browsers do not show, and three others."""
    folder = tmp_path / 'images'
    (folder / 'day').mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (60, 81, 3), np.uint8)
    cv2.imwrite(str(folder / 'a.jpg'), noise)
    cv2.imwrite(str(folder / 'day' / 'b.png'), noise[:40])
    cv2.imwrite(str(folder / 'day' / 'c.bmp'), noise[:, :50])
    (folder / 'day' / '._b.png').write_bytes(b'what another system leaves')
    (folder / 'notes.txt').write_text('no image')
    return folder


@pytest.fixture
def broken(images):
    """With an image of no bytes, a truncated one, a text, and one of 16 bits."""
    (images / 'empty.jpg').touch()
    (images / 'cut.jpg').write_bytes((images / 'a.jpg').read_bytes()[:2000])
    (images / 'text.png').write_text('no image')
    cv2.imwrite(str(images / 'deep.png'), np.full((40, 40), 300, np.uint16))
    return images


def make_video(path, count=4, size=(64, 50)):
    with av.open(str(path), 'w') as sink:
        stream = sink.add_stream('libx264', rate=10, options=dict(g='1'))
        stream.width, stream.height, stream.pix_fmt = *size, 'yuv420p'
        noise = np.random.default_rng(0).integers(0, 255, (count, *size[::-1], 3), np.uint8)
        for pixels in noise:
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        sink.mux(stream.encode())
    return path


def files(folder):
    return sorted(x.relative_to(folder).as_posix() for x in folder.rglob('*') if x.is_file())


def test_a_detector_writes_pictures_and_coco_results(checkpoints, broken, tmp_path):
    done = predict(checkpoints['mmdet'], broken, out=tmp_path / 'out', score=0.0, device='cpu')
    pictures = [f'pictures/{x}' for x in ('a.jpg', 'day/b.png', 'day/c.bmp.jpg', 'deep.png')]
    assert files(tmp_path / 'out') == [
        'images.json',
        'journal.jsonl',
        *pictures,
        'predictions.json',
    ]
    assert done.images == 4 and len(done.skipped) == 3
    for line in ('image that cannot be read: 3', 'empty.jpg has no bytes', 'cut.jpg cannot be',
                 'text.png is not an image', 'deep.png has 16 bits'):  # fmt: skip
        assert line in done.text()
    coco = COCO(str(tmp_path / 'out' / 'images.json'))
    found = coco.loadRes(str(done.results))
    assert [x['file_name'] for x in coco.imgs.values()] == [
        'a.jpg',
        'day/b.png',
        'day/c.bmp',
        'deep.png',
    ]
    assert [x['name'] for x in coco.cats.values()] == list(CLASSES['mmdet'])
    for image in coco.imgs.values():
        objects = found.imgToAnns[image['id']]
        assert objects, 'random weights with a score of at least 0 find something'
        for x in objects:
            left, top, width, height = x['bbox']
            assert 0 <= left and left + width <= image['width'] + 0.01
            assert 0 <= top and top + height <= image['height'] + 0.01
            assert found.annToMask(x).shape == (image['height'], image['width'])
    picture = cv2.imread(str(tmp_path / 'out' / 'pictures' / 'day' / 'b.png'))
    assert picture.shape == (40, 81, 3)
    assert (picture != cv2.imread(str(broken / 'day' / 'b.png'))).any()


def test_a_segmentor_writes_label_maps_of_the_numbers_of_classes(checkpoints, images, tmp_path):
    done = predict(checkpoints['mmseg'], images, out=tmp_path / 'out', device='cpu')
    names = ['label_maps/a.png', 'label_maps/day/b.png', 'label_maps/day/c.png']
    assert set(names) < set(files(tmp_path / 'out')) and done.results is None
    for name, size in zip(names, [(81, 60), (81, 40), (50, 60)], strict=True):
        with Image.open(tmp_path / 'out' / name) as picture:
            assert picture.mode == 'P' and picture.size == size
            assert picture.getpalette()[:9] == [x for colour in PALETTE for x in colour]
            assert np.asarray(picture).max() < 3


def test_a_run_that_was_stopped_goes_on(checkpoints, images, tmp_path):
    kept = dict(out=tmp_path / 'out', score=0.0, device='cpu')
    whole = predict(checkpoints['mmdet'], images, **kept)
    expected = whole.results.read_text()
    pictures = tmp_path / 'out' / 'pictures'
    journal = tmp_path / 'out' / 'journal.jsonl'
    lines = journal.read_text().splitlines(keepends=True)
    # killed while the second image was written
    journal.write_text(''.join(lines[:2]) + lines[2][:40])
    shutil.rmtree(pictures / 'day')
    whole.results.unlink()
    before = (pictures / 'a.jpg').stat().st_mtime_ns
    done = predict(checkpoints['mmdet'], images, **kept)
    assert done.earlier == 1 and done.images == 3
    assert done.results.read_text() == expected
    assert (pictures / 'a.jpg').stat().st_mtime_ns == before
    assert len(list((pictures / 'day').iterdir())) == 2
    with pytest.raises(
        ValueError, match=r'out holds results of score=0.0; this run has score=0.2'
    ):
        predict(checkpoints['mmdet'], images, **(kept | dict(score=0.2)))
    other = tmp_path / 'other'
    shutil.copytree(images, other)
    with pytest.raises(
        ValueError, match=r'images/a.jpg under the name a.jpg, which .*other/a.jpg'
    ):
        predict(checkpoints['mmdet'], other, **kept)


def test_ids_are_those_of_a_coco_file(checkpoints, images, tmp_path):
    content = dict(
        images=[dict(id=70, file_name='day/b.png'), dict(id=5, file_name='a.jpg')],
        categories=[dict(id=i, name=name) for i, name in [(9, 'blue'), (4, 'red'), (2, 'green')]],
    )
    path = images / 'test.json'
    path.write_text(json.dumps(content))
    done = predict(checkpoints['mmdet'], path, out=tmp_path / 'out', score=0.0, device='cpu')
    results = json.loads(done.results.read_text())
    assert {x['image_id'] for x in results} == {70, 5}
    assert {x['category_id'] for x in results} <= {9, 4, 2}
    plain = predict(
        checkpoints['mmdet'], images / 'a.jpg', out=tmp_path / 'p', score=0.0, device='cpu'
    )
    to_ids = {1: 4, 2: 2, 3: 9}
    expected = [x | dict(image_id=5, category_id=to_ids[x['category_id']])
                for x in json.loads(plain.results.read_text())]  # fmt: skip
    assert [x for x in results if x['image_id'] == 5] == expected


@pytest.mark.parametrize('scope', CONFIGS)
def test_a_video_becomes_a_video(scope, checkpoints, tmp_path):
    make_video(tmp_path / 'clip.mkv')
    (tmp_path / 'broken.mp4').write_bytes(b'no video')
    whole = make_video(tmp_path / 'cut.mp4', 9).read_bytes()
    (tmp_path / 'cut.mp4').unlink()
    (tmp_path / 'cut.mp4').write_bytes(whole[: len(whole) // 2])
    done = predict(checkpoints[scope], tmp_path, out=tmp_path / 'out', score=0.0, device='cpu')
    out = tmp_path / 'out'
    with av.open(str(out / 'videos' / 'clip.mp4')) as video:
        frames = list(video.decode(video=0))
        assert video.streams.video[0].average_rate == 10
    assert len(frames) == 4 and (frames[0].width, frames[0].height) == (64, 50)
    assert done.images == 4
    assert [Path(x.file).name for x in done.skipped] == ['broken.mp4', 'cut.mp4']
    kept = {x.partition('/')[0] for x in files(out)}
    if scope == 'mmseg':
        assert files(out / 'label_maps') == [f'clip/{i:06}.png' for i in range(4)]
        assert kept == {'journal.jsonl', 'label_maps', 'videos'}
    else:
        listed = json.loads((out / 'images.json').read_text())['images']
        assert [(x['file_name'], x['frame_id']) for x in listed] == [
            ('clip.mkv', i) for i in range(4)
        ]
        assert kept == {'journal.jsonl', 'images.json', 'predictions.json', 'videos'}
    assert files(out / 'videos') == ['clip.mp4']


def test_sides_of_odd_length_get_one_more(checkpoints, tmp_path):
    from mlp_backbones.predictions.video import map_video

    make_video(tmp_path / 'clip.mp4')
    map_video(tmp_path / 'clip.mp4', str(tmp_path / 'odd.mp4'), lambda image: image[:33, :45])
    with av.open(str(tmp_path / 'odd.mp4')) as video:
        assert {(x.width, x.height) for x in video.decode(video=0)} == {(46, 34)}


@given(length=st.integers(1, 5000), tile=st.integers(32, 900), overlap=st.floats(0, 0.95))
def test_tiles_cover_a_side_once(length, tile, overlap):
    found = list(cuts(length, tile, overlap))
    inner = [taken for _, _, taken in found]
    assert inner[0].start == 0 and inner[-1].stop == length
    assert all(a.stop == b.start for a, b in zip(inner, inner[1:], strict=False))
    for start, end, taken in found:
        assert start <= taken.start < taken.stop <= end and end - start <= tile
    if len(found) > 1:
        assert (
            min(a[1] - b[0] for a, b in zip(found, found[1:], strict=False))
            >= int(tile * overlap) - 2
        )


def test_tiles_find_what_is_small_in_a_large_image(monkeypatch):
    """Objects of 8 pixels, which a model sees that shrinks what it is given to 100."""
    image = np.zeros((400, 500, 3), np.uint8)
    centres = [(x, y) for x in range(20, 500, 67) for y in range(20, 400, 45)]
    for x, y in centres:
        image[y - 4 : y + 4, x - 4 : x + 4] = 255

    def see(model, pixels, score):
        large = max(pixels.shape[:2]) > 100
        white = np.zeros(pixels.shape[:2], np.uint8) if large else pixels[..., 0]
        count, regions, stats, _ = cv2.connectedComponentsWithStats(white)
        boxes = stats[1:, :4].astype(float)
        boxes[:, 2:] += boxes[:, :2]
        return models.sv.Detections(
            boxes.reshape(-1, 4),
            mask=np.stack([regions == i for i in range(1, count)]) if count > 1 else
            np.zeros((0, *white.shape), bool),
            confidence=np.full(count - 1, 0.9),
            class_id=np.zeros(count - 1, int),
        )  # fmt: skip

    monkeypatch.setattr(models, '_detect', see)
    assert len(models.detect(None, image, 0.3)) == 0
    found = models.detect(None, image, 0.3, tiles=100, overlap=0.2)
    middles = (found.xyxy[:, :2] + found.xyxy[:, 2:]) / 2
    assert sorted(map(tuple, middles)) == sorted(centres)
    assert all(found.mask[i].sum() == 64 for i in range(len(found)))


def test_tiles_of_a_segmentor_give_the_whole_image(monkeypatch):
    image = np.random.default_rng(0).integers(0, 255, (150, 231, 3), np.uint8)
    monkeypatch.setattr(models, '_segment', lambda model, pixels: pixels[..., 0].astype(np.uint16))
    np.testing.assert_array_equal(models.segment(None, image, 64), image[..., 0])


def test_inputs_are_named_below_the_folder_that_they_share(images, tmp_path):
    out = images / 'out'
    (out / 'pictures').mkdir(parents=True)
    shutil.copy(images / 'a.jpg', out / 'pictures')

    def names(*given):
        return [x.name for x in find_inputs(given, out).files]

    assert names(images) == ['a.jpg', 'day/b.png', 'day/c.bmp']
    assert names(images / 'day', images / 'a.jpg') == ['day/b.png', 'day/c.bmp', 'a.jpg']
    assert names(images / 'day/b.png') == names(images / 'day/b.png', images / 'day/b.png')
    assert names(f'{images}/**/*.[bp]*') == ['day/b.png', 'day/c.bmp']
    assert names(f'{images}/d*/b.png', images / 'a.jpg') == ['day/b.png', 'a.jpg']


def test_images_of_a_coco_file_are_found_in_the_usual_folders(tmp_path):
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'val2017').mkdir()
    cv2.imwrite(str(tmp_path / 'val2017' / 'a.jpg'), np.zeros((9, 9, 3), np.uint8))
    path = tmp_path / 'annotations' / 'instances_val2017.json'
    path.write_text(json.dumps(dict(images=[dict(id=1, file_name='a.jpg')])))
    (image,) = find_inputs([path], tmp_path / 'out').files
    assert image.path == tmp_path / 'val2017' / 'a.jpg' and image.id == 1


def refused(monkeypatch, *words):
    monkeypatch.setattr(sys, 'argv', ['predict.py', *map(str, words)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / 'tools' / 'predict.py'), run_name='__main__')
    return str(end.value)


def test_what_is_wrong_is_said_in_one_line_and_nothing_is_written(
    checkpoints, images, tmp_path, monkeypatch
):
    det, out = checkpoints['mmdet'], tmp_path / 'out'
    (tmp_path / 'none').mkdir()
    coco = dict(images=[dict(id=1, file_name='x.jpg')])
    (tmp_path / 'lost.json').write_text(json.dumps(coco))
    coco = dict(images=[dict(id=1, file_name='../images/a.jpg')])
    (images / 'out.json').write_text(json.dumps(coco))
    coco = dict(images=[dict(id=1, file_name='a.jpg')], categories=[dict(id=1, name='red')])
    (images / 'few.json').write_text(json.dumps(coco))
    cv2.imwrite(str(images / 'day' / 'b.jpg'), np.zeros((9, 9, 3), np.uint8))
    seg = checkpoints['mmseg']
    cases = [
        ([det, 'nowhere'], 'there is no nowhere'),
        ([det, images / 'day' / 'b.pgn'], 'there is no'),
        ([det, f'{images}/*.gif'], 'no image and no video matches'),
        ([det, tmp_path / 'none'], 'has no images and no videos'),
        ([det, images / 'notes.txt'], 'notes.txt is not an image (.jpg'),
        ([det, images, '--score', '1.5'], 'score=1.5 must be from 0 to 1'),
        ([det, images, '--tiles', '0'], 'tiles=0 must be 32 pixels or more'),
        ([det, images, '--overlap', '1'], 'overlap=1.0 must be from 0 to below 1'),
        ([det, images, '--img-dir', images], '--img-dir'),
        ([det, tmp_path / 'lost.json'], 'none of the 1 images of'),
        ([det, images / 'out.json'], 'is not below'),
        ([det, images / 'few.json', images], 'give it alone'),
        ([det, images / 'few.json'], "has no category 'green'"),
        ([seg, images], 'would both become'),
        ([tmp_path / 'x.pth', images], 'x.pth'),
        ([images / 'notes.txt', images], 'cannot be read as a checkpoint'),
        ([ROOT / 'configs/gmlp_maskrcnn_coco.py', det, images],
         'trained for 3 classes (red, green, blue), the config is for 80'),
    ]  # fmt: skip
    assert 'is a file; give a folder' in refused(monkeypatch, det, images, '--out', det)
    for words, message in cases:
        text = refused(monkeypatch, *words, '--out', out)
        assert text.startswith('predict.py: ') and message in text, text
        assert '\n' not in text.strip(), text
        assert not out.exists(), words


def test_without_supervision_it_says_what_to_install(images, monkeypatch):
    monkeypatch.setattr(prediction, 'find_spec', lambda name: None)
    with pytest.raises(ImportError, match='need supervision, .* pip install supervision'):
        predict('x.pth', images, out='out')


def test_a_new_process_opens_a_checkpoint_with_steps_of_ours(checkpoints, images, tmp_path):
    words = [checkpoints['mmseg'], images / 'a.jpg', '--out', tmp_path / 'out', '--device', 'cpu']
    result = subprocess.run(
        [sys.executable, ROOT / 'tools' / 'predict.py', *words],
        capture_output=True, text=True, timeout=300, env=dict(os.environ, OMP_NUM_THREADS='1'),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert f'1 images with results in {tmp_path}/out' in result.stdout
    assert (tmp_path / 'out' / 'label_maps' / 'a.png').is_file()
