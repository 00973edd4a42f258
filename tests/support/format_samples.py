"""Masks that are known pixel by pixel, for folders in the formats of other tools."""

import numpy as np

from segjax.data import rle
from segjax.data.check import splits_to_check
from segjax.data.config import DataConfig
from segjax.results.detections import ImageDetections
from tests.support.map_samples import write
from tests.support.samples import encoded, picture

HEIGHT, WIDTH = 20, 40


def rectangle(x0, y0, x1, y1):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def ring():
    """A rectangle with a hole."""
    return rectangle(5, 3, 30, 12) & ~rectangle(10, 6, 20, 9)


def outline(x0, y0, x1, y1):
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def write_image(path, seed=0, size=(HEIGHT, WIDTH), form="PNG"):
    write(path, encoded(picture(*size, seed), form))


def predicted(masks, classes):
    """Detections of these masks, to be written by `predict --save`."""
    return ImageDetections(
        boxes=np.float32([rle.to_bbox(rle.encode(mask)) for mask in masks]),
        scores=np.ones(len(masks), np.float32),
        classes=np.int32(classes),
        image_size=(HEIGHT, WIDTH),
        class_names=("cat", "dog"),
        mask_rles=tuple(map(rle.encode, masks)),
    )


def load(root, split="train", on_problem="raise", **fields):
    """Reads a split; returns what was found of every image, and the problems."""
    config = DataConfig(root=str(root), **fields)
    dataset = splits_to_check(config)[split].load(on_problem=on_problem)
    names = {category.id: category.name for category in dataset.categories}
    images = {}
    for image in dataset.images:
        images[image.file_name] = [
            (names[a.category_id], mask_of(a, image), a.bbox) for a in image.annotations
        ]
    return images, dataset.problems


def mask_of(annotation, image):
    if not annotation.counts:
        return None
    return rle.decode({"size": [image.height, image.width], "counts": annotation.counts}) > 0


def assert_objects(found, wanted):
    """Compares objects with (class, mask) or (class, None, box) in order."""
    assert [one[0] for one in found] == [one[0] for one in wanted]
    for (_, mask, box), (_, expected, *boxes) in zip(found, wanted, strict=True):
        if expected is None:
            assert mask is None
            np.testing.assert_allclose(box, boxes[0], atol=1e-6)
        else:
            np.testing.assert_array_equal(mask, expected)
