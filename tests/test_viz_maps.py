import dataclasses

import numpy as np
import pytest

import segjax
from segjax.data import rle
from segjax.data.segments import PanopticCategory
from segjax.results.detections import ImageDetections
from segjax.results.draw import maps as viz_maps
from segjax.results.draw import objects as viz
from segjax.results.draw.colours import CLASS_COLOURS, class_colour
from segjax.results.maps import PanopticMap, PanopticSegment, SemanticMap
from segjax.results.result import Result

SIZE = (120, 160)
GRAY = 100
PERSON = PanopticCategory(1, "person", True)
SKY = PanopticCategory(5, "sky", False)
DOG = PanopticCategory(7, "dog", True)


def blank():
    return np.full((*SIZE, 3), GRAY, np.uint8)


def semantic():
    labels = np.zeros(SIZE, np.uint8)
    labels[:, 60:] = 2
    labels[100:] = 255
    return SemanticMap(labels, ("road", "grass", "sky"))


def panoptic(scored=True):
    ids = np.zeros(SIZE, np.int32)
    ids[:100] = 9
    ids[30:90, 10:60] = 4
    ids[30:90, 80:140] = 2
    segments = (
        PanopticSegment(9, SKY, 12_000 - 3_000 - 3_600 + 4_000),
        PanopticSegment(4, PERSON, 3_000, 0.6 if scored else None),
        PanopticSegment(2, PERSON, 3_600, 0.9 if scored else None),
    )
    return PanopticMap(ids, segments, (PERSON, SKY, DOG))


def mixed(colour):
    return GRAY * (1 - viz_maps.MAP_OPACITY) + np.array(colour) * viz_maps.MAP_OPACITY


def test_classes_have_their_colours_and_lines_between():
    image = blank()
    drawn = viz_maps.draw_semantic(image, semantic(), show_legend=False)
    assert (image == GRAY).all()  # the input is not modified
    assert drawn.shape == image.shape
    np.testing.assert_allclose(drawn[50, 20], mixed(class_colour(0)), atol=1)
    np.testing.assert_allclose(drawn[50, 100], mixed(class_colour(2)), atol=1)
    assert (drawn[110, 20] == GRAY).all()
    assert (drawn[:100, 60] == 255).all()
    assert (drawn[100] == 255).all()
    # Only the borders are white.
    assert (drawn == 255).all(axis=-1).sum() == 100 + 160


def test_no_two_classes_look_alike_as_drawn():
    count = CLASS_COLOURS
    labels = np.repeat(np.arange(count), 3)[None].repeat(3, axis=0).astype(np.uint8)
    for gray in (0, GRAY, 255):
        image = np.full((*labels.shape, 3), gray, np.uint8)
        drawn = viz_maps.draw_semantic(image, SemanticMap(labels), show_legend=False)
        colours = drawn[1, 1::3].astype(int)
        gaps = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
        np.fill_diagonal(gaps, np.inf)
        assert gaps[:133, :133].min() > 19  # COCO's things and stuff
        assert gaps.min() > 15
        for step in (1, 2, 3):
            assert np.diagonal(gaps, step).min() > 55
    assert class_colour(count) == class_colour(0)


def test_a_class_keeps_its_colour_whatever_else_is_there():
    alone = SemanticMap(np.full(SIZE, 2, np.uint8), ("road", "grass", "sky"))
    drawn = viz_maps.draw_semantic(blank(), alone, show_legend=False)
    together = viz_maps.draw_semantic(blank(), semantic(), show_legend=False)
    np.testing.assert_array_equal(drawn[50, 100], together[50, 100])
    empty = dataclasses.replace(panoptic(), ids=np.zeros(SIZE, np.int32), segments=())
    unlike = viz_maps.draw_panoptic(blank(), empty, show_legend=False)
    np.testing.assert_array_equal(unlike, blank())


def test_objects_of_a_class_are_told_apart_the_best_in_its_own_colour():
    plain = viz_maps.draw_panoptic(blank(), panoptic(), show_labels=False, show_legend=False)
    own = class_colour(0)
    np.testing.assert_allclose(plain[40, 90], mixed(own), atol=1)
    np.testing.assert_allclose(plain[40, 20], mixed(viz_maps.shade(own, 1)), atol=1)
    np.testing.assert_allclose(plain[10, 10], mixed(class_colour(1)), atol=1)
    assert (plain[110, 10] == GRAY).all()


def test_labels_lie_on_objects_that_are_large_enough():
    plain, labelled = (
        viz_maps.draw_panoptic(blank(), panoptic(), scale=3, show_labels=show, show_legend=False)
        for show in (False, True)
    )
    changed = (labelled != plain).any(axis=-1)
    left, right = changed[90:270, 30:180], changed[90:270, 240:420]
    assert left.any()
    assert right.any()
    assert left.sum() + right.sum() == changed.sum()


@pytest.fixture
def said(monkeypatch):
    """Returns boxes and colours of the drawn labels."""
    said = {}

    def draw_labels(canvas, boxes, texts, order, colours):
        said.update({text: (boxes[i], colours[i]) for text, i in zip(texts, order, strict=True)})

    monkeypatch.setattr(viz, "draw_labels", draw_labels)
    return said


def test_labels_say_who_is_who(said):
    viz_maps.draw_panoptic(blank(), panoptic())
    assert list(said) == ["person 1 0.90", "person 2 0.60"]
    box, colour = said["person 1 0.90"]
    assert 80 <= (box[0] + box[2]) / 2 <= 140
    assert colour == class_colour(0)
    said.clear()
    viz_maps.draw_panoptic(blank(), panoptic(scored=False))
    # Without scores, in the order of the map's segments.
    assert list(said) == ["person 1", "person 2"]
    assert said["person 1"][1] == class_colour(0)
    assert said["person 1"][0][0] == 10
    crowd = panoptic(scored=False)
    sky, first, second = crowd.segments
    crowd = dataclasses.replace(
        crowd, segments=(sky, dataclasses.replace(first, is_crowd=True), second)
    )
    said.clear()
    viz_maps.draw_panoptic(blank(), crowd)
    assert list(said) == ["person 1"]


def test_the_picture_calls_objects_as_the_result_does(said):
    masks = np.zeros((4, *SIZE), bool)
    masks[0, 20:80, 10:60] = True
    masks[1, 20:80, 15:65] = True  # nine tenths of it is hidden by the first
    masks[2, 20:80, 100:150] = True
    masks[3, 90:100, 100:110] = True
    people = ImageDetections(
        boxes=np.array([rle.to_bbox(rle.encode(mask)) for mask in masks], np.float32),
        scores=np.array([0.9, 0.8, 0.7, 0.06], np.float32),
        classes=np.zeros(4, np.int32),
        image_size=SIZE,
        class_names=("person",),
        mask_rles=tuple(rle.encode(mask) for mask in masks),
    )
    found = Result(SIZE, people, SemanticMap(np.ones(SIZE, np.uint8), ("things", "grass")))
    found = dataclasses.replace(found, panoptic=found.to_panoptic(stuff_area=1))
    viz_maps.draw_result(blank(), found)
    assert list(said) == ["person 1 0.90", "person 3 0.70"]
    for text, (box, _) in said.items():
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        x0, y0, x1, y1 = found.object(text.rsplit(" ", 1)[0]).box
        assert x0 <= x <= x1 and y0 <= y <= y1
    # An object missing from the result keeps its class name, but has no number.
    said.clear()
    viz_maps.draw_result(blank(), dataclasses.replace(found, instances=people.above(0.75)))
    assert list(said) == ["person 1 0.90", "person 0.70"]
    said.clear()
    viz_maps.draw_result(blank(), dataclasses.replace(found, instances=None))
    assert list(said) == ["person 1 0.90", "person 2 0.70"]


def test_small_objects_are_not_hidden_under_their_labels():
    mask = np.zeros(SIZE, bool)
    mask[50:56, 70:78] = True
    box = np.array([70, 50, 78, 56], np.float32)
    np.testing.assert_array_equal(viz_maps._label_anchor(mask, "person 1"), box)


def test_the_legend_says_how_much_of_everything():
    entries = viz_maps._panoptic_entries(panoptic())
    assert [entry.text for entry in entries] == ["sky 49%", "person x2 34%"]
    assert [entry.colour for entry in entries] == [class_colour(1), class_colour(0)]
    assert viz_maps._percent(1, 1000) == "<1%"
    plain = viz_maps.draw_panoptic(blank(), panoptic(), show_legend=False)
    drawn = viz_maps.draw_panoptic(blank(), panoptic())
    np.testing.assert_array_equal(drawn[:120], plain)
    legend = drawn[120:]
    assert legend.shape[1:] == (160, 3)
    swatch = viz_maps._swatch(class_colour(1))
    assert (legend == swatch).all(axis=-1).any()
    narrow = viz_maps.draw_semantic(blank()[:, :60], SemanticMap(semantic().labels[:, 40:100]))
    assert len(narrow) - 120 > len(legend)  # a narrower legend has more lines


def test_nothing_known():
    unknown = SemanticMap(np.full(SIZE, 255, np.uint8))
    drawn = viz_maps.draw_semantic(blank(), unknown)
    np.testing.assert_array_equal(drawn[:120], blank())
    assert (drawn[120:] < 100).any()  # the legend's entry for it


def test_enlarged():
    drawn = viz_maps.draw_semantic(blank(), semantic(), scale=3, show_legend=False)
    assert drawn.shape == (360, 480, 3)
    np.testing.assert_allclose(drawn[150, 60], mixed(class_colour(0)), atol=1)
    drawn = viz_maps.draw_panoptic(blank(), panoptic(), scale=2, show_legend=False)
    assert drawn.shape == (240, 320, 3)


@pytest.mark.parametrize("draw", [viz_maps.draw_semantic, viz_maps.draw_panoptic])
def test_wrong_pictures_are_refused(draw):
    value = semantic() if draw is viz_maps.draw_semantic else panoptic()
    with pytest.raises(ValueError, match=r"the map is of one of .120, 160.: give the picture"):
        draw(blank()[:100], value)
    with pytest.raises(ValueError, match="wanted uint8"):
        draw(blank().astype(np.float32), value)
    with pytest.raises(ValueError, match="scale is 0"):
        draw(blank(), value, scale=0)


def test_they_are_public():
    assert segjax.draw_panoptic is viz_maps.draw_panoptic
    assert segjax.draw_semantic is viz_maps.draw_semantic
