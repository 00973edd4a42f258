"""Prediction by tiles against objects that are known."""

import dataclasses
import itertools

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.data import rle
from segjax.data.config import DataConfig
from segjax.predict.predictor import Predictor
from segjax.predict.tiles import Tiles, find_in_tiles, join_views, label_in_tiles
from segjax.protocols import ClassCounts
from segjax.results.detections import ImageDetections
from segjax.results.maps import SemanticMap
from tests.support import fakes


def detections(masks, scores, size, classes=None):
    """Objects of these masks; empty masks are skipped."""
    encoded = [rle.encode(mask) for mask in masks]
    boxes = np.array([rle.to_bbox(mask) for mask in encoded], np.float32).reshape(-1, 4)
    return ImageDetections(
        boxes,
        np.array(scores, np.float32),
        np.array(classes or [0] * len(masks), np.int32),
        size,
        ("thing", "other"),
        tuple(encoded),
    )


def find_blobs(image):
    """A perfect detector: every colour is an object, green its class, blue its score."""
    values = np.unique(image.reshape(-1, 3), axis=0)
    values = [v for v in values.tolist() if v[0]]
    masks = [(image == v).all(axis=2) for v in values]
    scores = [v[2] / 255 for v in values]
    return detections(masks, scores, image.shape[:2], [v[1] for v in values])


def picture(seed, height=350, width=450, count=30):
    """Draws objects that do not overlap, from 4 to 200 pixels in size."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.uint8)
    for number in range(1, count + 1):
        mask = np.zeros((height, width), np.uint8)
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = tuple(int(v) for v in np.exp(rng.uniform(np.log(2), np.log(100), 2)))
        cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        free = (mask > 0) & (image[..., 0] == 0)
        # One piece, which is what a detector sees as one object.
        labels, parts = cv2.connectedComponents(free.astype(np.uint8))
        if labels > 1:
            image[parts == 1] = (number, number % 2, 255 - 2 * number)
    return image


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("whole", [True, False])
def test_a_perfect_detector_stays_perfect(seed, whole):
    image = picture(seed)
    wanted = find_blobs(image)
    found = find_in_tiles(find_blobs, image, Tiles(128, 0.3, whole=whole))
    assert sorted(found.scores.tolist()) == sorted(wanted.scores.tolist())
    truth = {score: i for i, score in enumerate(wanted.scores.tolist())}
    assert (np.diff(found.scores) <= 0).all()
    for i, score in enumerate(found.scores.tolist()):
        j = truth[score]
        assert found.classes[i] == wanted.classes[j]
        np.testing.assert_array_equal(found.mask(i), wanted.mask(j))
        np.testing.assert_array_equal(found.boxes[i], wanted.boxes[j])


def test_tiles_cover_every_pixel_and_overlap_enough():
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = (int(v) for v in rng.integers(1, 3000, 2))
        tiles = Tiles(int(rng.integers(32, 1500)), float(rng.uniform(0, 0.9)))
        views = tiles.cover(height, width)
        assert {(y1 - y0, x1 - x0) for x0, y0, x1, y1 in views} == {
            (min(tiles.size, height), min(tiles.size, width))
        }
        for low, high, length in ((0, 2, width), (1, 3, height)):
            spans = sorted({(view[low], view[high]) for view in views})
            assert spans[0][0] == 0 and spans[-1][1] == length
            shared = [a[1] - b[0] for a, b in itertools.pairwise(spans)]
            assert all(s >= tiles.overlap * tiles.size - 1 for s in shared)


def test_a_whole_object_wins_over_its_cut_parts_and_takes_the_best_score():
    mask = np.zeros((100, 200), bool)
    mask[20:60, 30:150] = True
    left, right = (0, 0, 110, 100), (90, 0, 200, 100)
    found = join_views(
        [
            (left, detections([mask[:, :110]], [0.9], (100, 110))),
            (right, detections([mask[:, 90:]], [0.8], (100, 110))),
            ((0, 0, 200, 100), detections([mask], [0.3], (100, 200))),
        ],
        (100, 200),
    )
    assert found.scores.tolist() == pytest.approx([0.9])
    np.testing.assert_array_equal(found.mask(0), mask)


def test_neighbours_and_other_classes_stay_apart():
    masks = np.zeros((3, 100, 200), bool)
    masks[0, 20:40, 92:100] = True
    masks[1, 20:40, 101:108] = True  # next to it, in the region that both tiles show
    masks[2, 20:40, 92:100] = True  # the same pixels, another class
    views = [(0, 0, 110, 100), (90, 0, 200, 100)]
    found = join_views(
        [
            (v, detections(list(masks[:, :, v[0] : v[2]]), [0.9, 0.8, 0.7], (100, 110), [0, 0, 1]))
            for v in views
        ],
        (100, 200),
    )
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])


def test_a_part_that_connects_two_others_makes_one_object():
    mask = np.zeros((50, 300), bool)
    mask[20:30] = True  # from end to end: cut in every view
    views = [(0, 0, 120, 50), (90, 0, 210, 50), (180, 0, 300, 50)]
    scores = [0.9, 0.5, 0.8]  # the middle one comes last
    found = join_views(
        [
            (v, detections([mask[:, v[0] : v[2]]], [s], (50, 120)))
            for v, s in zip(views, scores, strict=True)
        ],
        (50, 300),
    )
    assert len(found) == 1
    np.testing.assert_array_equal(found.mask(0), mask)
    np.testing.assert_array_equal(found.boxes[0], [0, 20, 300, 30])


def test_boxes_without_masks_are_joined_too():
    def find(image):
        return dataclasses.replace(find_blobs(image), mask_rles=None)

    image = np.zeros((600, 600, 3), np.uint8)
    image[100:300, 100:500] = (1, 0, 200)
    image[400:410, 250:262] = (2, 0, 100)
    found = find_in_tiles(find, image, Tiles(256, 0.25))
    assert found.mask_rles is None
    np.testing.assert_array_equal(found.boxes, [[100, 100, 500, 300], [250, 400, 262, 410]])


def test_labels_come_from_the_tile_that_shows_most_around_a_pixel():
    def label(tile):  # wrong within 20 pixels of the tile's border
        labels = tile[..., 0] % 3
        labels[:20], labels[-20:], labels[:, :20], labels[:, -20:] = 3, 3, 3, 3
        return SemanticMap(labels, ("a", "b", "c", "wrong"))

    image = np.random.default_rng(0).integers(0, 255, (500, 640, 3)).astype(np.uint8)
    found = label_in_tiles(label, image, Tiles(200, 0.25))
    np.testing.assert_array_equal(found.labels[20:-20, 20:-20], image[20:-20, 20:-20, 0] % 3)
    assert found.names == ("a", "b", "c", "wrong")


@dataclasses.dataclass(frozen=True)
class BrightModel(fakes.FakeModel):
    """Finds the box of bright pixels in the resized picture."""

    classes: ClassCounts = ClassCounts(things=1)

    def apply(self, variables, images, image_sizes, *, method):
        from segjax.types import Detections

        bright = images[0, ..., 0] > 127
        rows, columns = bright.any(axis=1), bright.any(axis=0)
        low = jnp.argmax(columns), jnp.argmax(rows)
        high = columns.size - jnp.argmax(columns[::-1]), rows.size - jnp.argmax(rows[::-1])
        return Detections(
            boxes=jnp.array([[[*low, *high]]], jnp.float32),
            scores=jnp.array([[0.9]]),
            classes=jnp.zeros((1, 1), jnp.int32),
            valid=bright.any()[None, None],
            masks=None,
        )


def test_small_objects_of_large_pictures_are_found_in_tiles():
    image = np.zeros((900, 1200, 3), np.uint8)
    image[700:704, 1000:1006] = 255  # less than a pixel of the resized picture
    data = DataConfig(short_side=(90,), long_side=120)
    predictor = Predictor(model=BrightModel(), variables={}, data=data)
    assert not len(predictor(image))
    found = dataclasses.replace(predictor, tiles=Tiles(90))(image)
    np.testing.assert_allclose(found.boxes, [[1000, 700, 1006, 704]], atol=1.1)
    small = image[680:730, 980:1030]
    np.testing.assert_array_equal(
        dataclasses.replace(predictor, tiles=Tiles(90))(small).boxes, predictor(small).boxes
    )


@pytest.mark.parametrize("fields", [{"size": 8}, {"overlap": 1.0}, {"iou_threshold": 0.0}])
def test_nonsense_is_refused(fields):
    with pytest.raises(ValueError, match="wanted"):
        Tiles(**fields)
