"""A COCO folder with label maps of every kind."""

import copy
import json

import numpy as np

from segjax.data import rle
from segjax.data.coco import load_coco
from segjax.data.labels import find_labels, open_labels
from tests.support.samples import annotation, content, encoded, make_folder

SIZES = {1: (20, 30), 2: (30, 20)}
CATEGORIES = [
    {"id": 200, "name": "sky", "isthing": 0},
    {"id": 3, "name": "cat", "isthing": 1},
    {"id": 7, "name": "dog", "isthing": 1},
]


def mask(size, *box):
    raster = np.zeros(size, bool)
    x0, y0, x1, y1 = box
    raster[y0:y1, x0:x1] = True
    return raster


def instances():
    """Overlapping objects, a crowd and, in the second image, an object without a mask."""
    boxes = [(2, 2, 22, 16), (8, 4, 14, 12), (10, 1, 29, 19), (5, 5, 9, 25), (0, 2, 6, 8)]
    images = [1, 1, 1, 2, 2]
    entries = []
    for number, (image, box) in enumerate(zip(images, boxes, strict=True), 1):
        x0, y0, x1, y1 = box
        segmentation = rle.encode(mask(SIZES[image], *box))
        entry = annotation(number, image, (x0, y0, x1 - x0, y1 - y0), segmentation=segmentation)
        entries.append(entry | {"category_id": 3 if number % 2 else 7})
    entries[2]["iscrowd"] = 1
    entries[4] |= {"segmentation": None, "bbox": [0.5, 2.5, 5.2, 5.1]}
    return content([(i, *SIZES[i]) for i in SIZES], entries)


def panoptic_ids(image):
    """A map of segment ids that need all three bytes; 0 along the lower edge."""
    ids = np.full(SIZES[image], 70000 + image)
    ids[:, 10:] = 300
    ids[3:9, 4:13] = 5
    ids[-2:] = 0
    return ids


def panoptic_content():
    """A panoptic json in which category 7 is always a crowd."""
    categories = {70000: 200, 300: 7, 5: 3}
    annotations = []
    for image in SIZES:
        info = [
            {"id": number + (image if number == 70000 else 0), "category_id": c, "iscrowd": c == 7}
            for number, c in categories.items()
        ]
        annotations.append({"image_id": image, "file_name": f"{image}.png", "segments_info": info})
    return {"images": [], "annotations": annotations, "categories": copy.deepcopy(CATEGORIES)}


def stuff_labels(image):
    labels = np.random.default_rng(image).integers(0, 183, SIZES[image]).astype(np.uint8)
    labels[:2] = 255
    return labels


PLAIN_NAMES = ("road", "kerb", "grass", "sea", "sky")


def plain_labels(image):
    labels = np.random.default_rng(10 + image).integers(0, 5, SIZES[image]).astype(np.uint8)
    labels[:, :3] = 255
    return labels


def colours(ids):
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())


def write_maps(root, split="train", year=""):
    for image in SIZES:
        write(root / f"stuffthingmaps/{split}{year}/{image}.png", encoded(stuff_labels(image)))
        write(root / f"labels/{split}{year}/{image}.png", encoded(plain_labels(image)))
        write(root / f"panoptic_{split}{year}/{image}.png", encoded(colours(panoptic_ids(image))))
    write(root / f"annotations/panoptic_{split}{year}.json", panoptic_content())


def make_everything(root):
    """Writes the folder, with maps under the names used for both splits."""
    config = make_folder(root, instances())
    write_maps(root, "train")
    write_maps(root, "val", "2017")
    write(root / "labels/classes.txt", "\n".join(PLAIN_NAMES).encode())
    return config


def labels_of(config, semantic, split="train"):
    """Opens the labels of a folder's split; returns them with the images to query."""
    root = config.root
    dataset = load_coco(f"{root}/annotations/instances_{split}.json", f"{root}/{split}")
    base = config.semantic_root or root
    files = find_labels(semantic, base, split, apart=bool(config.semantic_root))
    labels = open_labels(semantic, dataset.categories, {split: files})
    return labels.names, labels.readers[split], {image.id: image for image in dataset.images}
