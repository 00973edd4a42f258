import colorsys
import dataclasses
import itertools

import numpy as np
import pytest

from segjax.data import rle
from segjax.results.detections import ImageDetections
from segjax.results.draw import objects as viz
from segjax.results.draw.fonts import fitting_font


def _objects(height=120, width=160, scored=True):
    masks = np.zeros((3, height, width), bool)
    masks[0, 40:90, 30:80] = True
    masks[1, 50:110, 100:150] = True
    masks[2, 2:12, 120:158] = True
    return ImageDetections(
        boxes=np.array([[30, 40, 80, 90], [100, 50, 150, 110], [120, 2, 158, 12]], np.float32),
        scores=np.array([0.9, 0.984, 0.7], np.float32) if scored else None,
        classes=np.array([0, 0, 1], np.int32),
        image_size=(height, width),
        class_names=("person", "dog"),
        mask_rles=tuple(rle.encode(mask) for mask in masks),
    )


def test_labels_number_each_class_from_the_best_score_down():
    objects = _objects()
    order = viz.drawing_order(objects)
    assert order == [1, 0, 2]
    assert viz.label_texts(objects, order, ("person", "dog")) == [
        "person 1 0.98",
        "person 2 0.90",
        "dog 1 0.70",
    ]
    assert viz.label_texts(objects, order, ())[0] == "class 0 1 0.98"
    assert viz.label_texts(_objects(scored=False), [0], ("person",)) == ["person 1"]


def test_masks_boxes_and_labels_are_drawn_where_the_objects_are():
    image = np.full((120, 160, 3), 100, np.uint8)
    drawn = viz.draw(image, _objects(), show_labels=False)
    assert (image == 100).all()  # the input is not modified
    assert drawn.dtype == np.uint8
    assert (drawn[100:, :28] == 100).all()  # nothing is drawn far from the objects
    colours = [viz.instance_colour(rank) for rank in range(3)]
    assert tuple(drawn[40, 60]) == colours[1]  # the box's outline
    blended = 100 * (1 - viz.MASK_OPACITY) + np.array(colours[1]) * viz.MASK_OPACITY
    np.testing.assert_allclose(drawn[65, 55], blended, atol=1)
    plain = viz.draw(image, _objects(), show_labels=False, show_boxes=False, show_masks=False)
    np.testing.assert_array_equal(plain, image)
    labelled = viz.draw(image, _objects())
    assert (labelled != drawn).any()


def test_colours_of_neighbours_are_far_apart():
    hues = [colorsys.rgb_to_hsv(*(c / 255 for c in viz.instance_colour(r)))[0] for r in range(30)]
    for a, b in itertools.pairwise(hues):
        assert min(abs(a - b), 1 - abs(a - b)) > 0.3
    assert len({viz.instance_colour(rank) for rank in range(100)}) == 100


@pytest.mark.parametrize("size", [(60, 90), (480, 640), (1500, 2000)])
def test_labels_stay_inside_and_apart(size):
    from PIL import Image, ImageDraw

    height, width = size
    pen = ImageDraw.Draw(Image.new("RGB", (width, height)))
    font, _ = fitting_font(["person 1 0.98"], viz.label_size(size))
    placed = []
    corners = [(0, 0), (width - 10, 0), (0, height - 10), (width - 10, height - 10)]
    if height > 100:
        corners += [(width // 2, height // 2)] * 3
    for x, y in corners:
        box = np.array([x, y, x + 10, y + 10], np.float32)
        label = viz._place(pen, font, "person 1 0.98", box, size, placed)
        assert 0 <= label.left < label.right <= width
        assert 0 <= label.top < label.bottom <= height
        if height > 100:
            assert not any(viz._overlap(label, other) for other in placed)
        placed.append(label)


def test_lines_and_text_grow_with_the_image():
    assert viz.line_width((50, 50)) == 1
    assert viz.line_width((480, 640)) == 2
    assert viz.line_width((2400, 3200)) == 10
    assert viz.label_size((480, 640)) == 14
    assert viz.label_size((20, 20)) == 9


@pytest.mark.parametrize("shape", [(120, 160), (120, 160, 1), (120, 160, 3), (120, 160, 4)])
def test_every_kind_of_picture(shape):
    drawn = viz.draw(np.zeros(shape, np.uint8), _objects())
    assert drawn.shape == (120, 160, 3)


def test_small_pictures_can_be_enlarged():
    assert [viz.readable_scale(size) for size in ((128, 128), (240, 300), (480, 640))] == [
        4,
        2,
        1,
    ]
    image = np.full((120, 160, 3), 100, np.uint8)
    drawn = viz.draw(image, _objects(), show_labels=False, show_masks=False, scale=3)
    assert drawn.shape == (360, 480, 3)
    assert (drawn[3 * 40, 3 * 35 : 3 * 75] == viz.instance_colour(1)).all()
    with pytest.raises(ValueError, match="scale is 0"):
        viz.draw(image, _objects(), scale=0)


def test_no_objects_no_masks_and_boxes_on_the_edge():
    image = np.zeros((120, 160, 3), np.uint8)
    nothing = _objects().select(np.zeros(3, bool))
    np.testing.assert_array_equal(viz.draw(image, nothing), image)
    edge = dataclasses.replace(
        _objects(),
        boxes=np.array([[0, 0, 160, 120], [159.4, 119.2, 160, 120], [0, 0, 0.3, 0.2]], np.float32),
        mask_rles=None,
    )
    assert viz.draw(image, edge).any()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((120, 160, 3), np.float32), "float32 .120, 160, 3.: wanted uint8"),
        (np.zeros((120, 160, 2), np.uint8), "wanted uint8"),
        (np.zeros((100, 160, 3), np.uint8), "give the picture that was predicted"),
    ],
)
def test_wrong_pictures_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        viz.draw(image, _objects())
