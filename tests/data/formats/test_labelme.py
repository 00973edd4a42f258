"""Labelme's jsons: shapes of every kind, and images under any of the names that they give."""

import base64
import json

import numpy as np
import pytest

from segjax.data.coco import CocoError
from segjax.results.save import LabelmeWriter
from tests.support.format_samples import (
    HEIGHT,
    WIDTH,
    assert_objects,
    load,
    outline,
    predicted,
    rectangle,
    ring,
    write_image,
)
from tests.support.map_samples import write
from tests.support.samples import encoded


def shape(label, points, kind="polygon", group=None, **fields):
    return {"label": label, "points": points, "shape_type": kind, "group_id": group, **fields}


def ring_shape(label):
    pixels = ring()[3:12, 5:30].astype(np.uint8) * 255
    text = base64.b64encode(encoded(pixels)).decode()
    return shape(label, [[5, 3], [29, 11]], "mask", mask=text)


def write_json(path, shapes, image="a.png", **fields):
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image}
    write(path, content | {"imageHeight": HEIGHT, "imageWidth": WIDTH} | fields)


def test_polygons_masks_with_holes_and_boxes_are_read(tmp_path):
    write_image(tmp_path / "a.png")
    shapes = [
        shape("dog", outline(2, 4, 12, 9)),
        ring_shape("cat"),
        shape("dog", [[30, 15], [20, 5]], "rectangle"),
        shape("dog", [[1, 2]], "point"),
        shape("_background_", outline(0, 0, 5, 5)),
    ]
    write_json(tmp_path / "a.json", shapes)
    found, problems = load(tmp_path)
    wanted = [("dog", rectangle(2, 4, 12, 9)), ("cat", ring()), ("dog", None, (20, 5, 10, 10))]
    assert_objects(found["a.png"], wanted)
    assert problems.counts == {
        "unsupported_shape": 1,
        "ignored_label": 1,
        "missing_segmentation": 1,
    }


def test_shapes_of_one_label_and_group_are_one_object(tmp_path):
    write_image(tmp_path / "a.png")
    shapes = [
        shape("cat", outline(2, 2, 8, 8), group=1),
        shape("dog", outline(9, 2, 12, 8), group=1),
        shape("cat", outline(20, 10, 30, 18), group=1),
        ring_shape("dog") | {"group_id": 2},
        shape("dog", outline(32, 2, 38, 8), group=2),
    ]
    write_json(tmp_path / "a.json", shapes)
    found, _ = load(tmp_path)
    wanted = [
        ("cat", rectangle(2, 2, 8, 8) | rectangle(20, 10, 30, 18)),
        ("dog", rectangle(9, 2, 12, 8)),
        ("dog", ring() | rectangle(32, 2, 38, 8)),
    ]
    assert_objects(found["a.png"], wanted)


def test_a_circle_has_the_area_of_a_circle(tmp_path):
    write_image(tmp_path / "a.png", size=(100, 100))
    shapes = [shape("ball", [[50, 40], [50, 70]], "circle")]
    write_json(tmp_path / "a.json", shapes, imageHeight=100, imageWidth=100)
    ((_, mask, box),) = load(tmp_path)[0]["a.png"]
    assert abs(mask.sum() - np.pi * 900) < 15
    np.testing.assert_allclose(box, (20, 10, 60, 60), atol=0.05)


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("a.png", "set/a.png"),
        ("..\\pictures\\a.png", "pictures/a.png"),
        ("C:\\Users\\me\\set\\a.png", "set/a.png"),
        ("/home/me/pictures/a.png", "pictures/a.png"),
        ("gone.png", "set/a.png"),
    ],
)
def test_images_are_found_by_the_names_that_other_machines_give(tmp_path, given, place):
    write_image(tmp_path / place)
    write_json(tmp_path / "set" / "a.json", [shape("cat", outline(2, 4, 12, 9))], given)
    assert list(load(tmp_path)[0]) == [place]


def test_sizes_are_the_files_where_the_json_has_none(tmp_path):
    write_image(tmp_path / "a.png")
    shapes = [shape("cat", outline(2, 4, 12, 9))]
    write_json(tmp_path / "a.json", shapes, imageHeight=None, imageWidth=None)
    assert_objects(load(tmp_path)[0]["a.png"], [("cat", rectangle(2, 4, 12, 9))])


def test_folders_of_splits_are_splits_with_the_same_classes(tmp_path):
    for split, label in (("train", "cat"), ("valid", "ape")):
        write_image(tmp_path / split / "a.png")
        write_json(tmp_path / split / "a.json", [shape(label, outline(2, 4, 12, 9))])
    assert load(tmp_path, "train")[0]["a.png"][0][0] == "cat"
    assert load(tmp_path, "val")[0]["a.png"][0][0] == "ape"


def test_one_json_alone_can_be_given(tmp_path):
    write_image(tmp_path / "a.png")
    for name in ("a.json", "b.json"):
        write_json(tmp_path / name, [shape("cat", outline(2, 4, 12, 9))])
    assert list(load(tmp_path / "a.json")[0]) == ["a.png"]


def test_our_own_predictions_come_back_pixel_by_pixel(tmp_path):
    masks = [ring(), rectangle(2, 14, 9, 19), rectangle(0, 0, 3, 3) | ring()]
    found = predicted(masks, [0, 1, 1])
    write_image(tmp_path / "labelme" / "a.png")
    LabelmeWriter(tmp_path).add("a.png", "a", np.zeros((HEIGHT, WIDTH, 3), np.uint8), found)
    wanted = [("cat", masks[0]), ("dog", masks[1]), ("dog", masks[2])]
    assert_objects(load(tmp_path / "labelme")[0]["a.png"], wanted)


@pytest.mark.parametrize(
    ("bad", "kind", "words"),
    [
        (shape("cat", [[1, 2], [3]]), "bad_shape", r"wanted a list of \[x, y\]"),
        (shape("cat", [[1, 2], [3, float("nan")], [5, 9]]), "bad_shape", "not a finite number"),
        (shape("cat", [[0, 0], [4, 4]], "mask", mask="!!"), "bad_shape", "not base64"),
        (shape("cat", [[0, 0], [4, 4]], "mask", mask="QUJD"), "bad_shape", "is not a PNG"),
        (ring_shape("cat") | {"points": [[5, 3], [9, 9]]}, "bad_shape", r"\(9, 25\) pixels over 7"),
        (shape(None, outline(2, 4, 12, 9)), "bad_shape", "has no label"),
        (shape("cat", [[1, 2]], "circle"), "bad_shape", "wanted the centre"),
        (shape("cat", outline(2, 4, 12, 900)), "bad_segmentation", "further than one image size"),
    ],
)
def test_defects_are_named_and_counted(tmp_path, bad, kind, words):
    write_image(tmp_path / "a.png")
    write_json(tmp_path / "a.json", [bad, shape("cat", outline(2, 4, 12, 9))])
    with pytest.raises(CocoError, match=f"{kind}: 1; first: .*{words}"):
        load(tmp_path)
    found, problems = load(tmp_path, on_problem="collect")
    assert_objects(found["a.png"], [("cat", rectangle(2, 4, 12, 9))])
    assert problems.fatal() == {kind: 1}


def test_files_that_are_left_out_are_counted(tmp_path):
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name)
    write_json(tmp_path / "a.json", [shape("cat", outline(2, 4, 12, 9))])
    (tmp_path / "c.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    write_json(tmp_path / "d.json", [], "lost.png")
    _, problems = load(tmp_path, on_problem="collect")
    assert problems.counts == {
        "bad_annotation_file": 1,
        "other_file": 1,
        "image_not_annotated": 1,
        "missing_file": 1,
    }
    assert "lost.png" in problems.examples["missing_file"][0]


def test_names_and_links_do_not_lead_out_of_the_folder(tmp_path):
    root = tmp_path / "data"
    write_image(tmp_path / "secret.png")
    write_json(root / "x.json", [shape("cat", outline(2, 4, 12, 9))], "../secret.png")
    _, problems = load(root, on_problem="collect")
    assert problems.fatal() == {"bad_file_name": 1}
    (root / "x.png").symlink_to(tmp_path / "secret.png")
    _, problems = load(root, on_problem="collect")
    assert problems.fatal() == {"link_out_of_folder": 1}
    assert list(load(root, follow_links=True)[0]) == ["x.png"]


def test_without_a_json_the_format_says_so(tmp_path):
    with pytest.raises(CocoError, match=r"no json in .*: labelme writes one for each image"):
        load(tmp_path, name="labelme")


def test_another_json_is_not_labelme(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"shapes": []}))
    with pytest.raises(CocoError, match="no COCO annotations"):
        load(tmp_path)
