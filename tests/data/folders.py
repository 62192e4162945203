"""Small folders of images with COCO annotations, or with label maps."""

import json

import cv2
import numpy as np
from PIL import Image

NAMES = ('cell', 'platelet')


def content(count=4, masks=True, names=NAMES, first_id=1):
    """As many images, with one object of each class."""
    images = [dict(id=i, file_name=f'{i}.png', width=64, height=48) for i in range(count)]
    annotations = []
    for image in images:
        for label in range(len(names)):
            x = 4 + 20 * label
            entry = dict(
                id=len(annotations) + 1,
                image_id=image['id'],
                category_id=first_id + label,
                bbox=[x, 4, 16, 32],
                area=512,
                iscrowd=0,
            )
            if masks:
                entry['segmentation'] = [[x, 4, x + 16, 4, x + 16, 36, x, 36]]
            annotations.append(entry)
    categories = [dict(id=first_id + i, name=name) for i, name in enumerate(names)]
    return dict(images=images, annotations=annotations, categories=categories)


def put(folder, ann_file, img_dir, data):
    (folder / img_dir).mkdir(parents=True, exist_ok=True)
    (folder / ann_file).parent.mkdir(parents=True, exist_ok=True)
    for image in data['images']:
        picture = np.random.default_rng(image['id']).integers(0, 255, (48, 64, 3), np.uint8)
        cv2.imwrite(str(folder / img_dir / image['file_name']), picture)
    (folder / ann_file).write_text(json.dumps(data))


CLASSES = 'sky\nroad\ncar\n'


def put_maps(img_dir, ann_dir, names, ending='.png', labels=(0, 1, 2), palette=None):
    """Images of 64 x 48, and label maps with a stripe of each label."""
    for folder in (img_dir, ann_dir):
        folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        colours = np.random.default_rng(ord(name)).integers(0, 255, (48, 64, 3), np.uint8)
        Image.fromarray(colours).save(img_dir / f'{name}.jpg')
        stripes = np.repeat(np.resize(labels, 64)[None], 48, 0).astype(np.uint8)
        label_map = Image.fromarray(stripes)
        if palette:
            label_map.putpalette(palette)
        label_map.save(ann_dir / f'{name}{ending}')
