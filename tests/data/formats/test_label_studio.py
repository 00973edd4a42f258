"""Label Studio's exports: percentages, brushes, and the names that images have on its server."""

import json

import numpy as np
import pytest

from segjax.data.coco import CocoError
from tests.support.format_samples import (
    HEIGHT,
    WIDTH,
    assert_objects,
    load,
    rectangle,
    ring,
    write_image,
)
from tests.support.map_samples import write

# Written by label_studio_sdk.converter.brush.mask2rle for `ring()`.
# fmt: off
RING = [
    0, 0, 12, 128, 57, 27, 255, 1, 243, 0, 204, 127, 248, 236, 3, 49, 255, 227, 176, 12, 199, 255,
    142, 192, 48, 159, 254, 39, 0, 196, 255, 248, 236, 3, 9, 255, 226, 112, 12, 79, 255, 142, 192,
    48, 159, 254, 39, 0, 196, 255, 248, 236, 3, 49, 255, 227, 176, 12, 199, 255, 142, 192, 51, 31,
    255, 5, 39, 0, 0,
]
# fmt: on
SQUARE = [[5, 20], [30, 20], [30, 45], [5, 45]]  # percent of 40 x 20: 2, 4 to 12, 9


def region(kind, label="dog", number="r1", **value):
    return {
        "id": number,
        "type": f"{kind}labels",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": value | {f"{kind}labels": [label]},
    }


def polygon(number="p", label="dog"):
    return region("polygon", label, number, points=SQUARE, closed=True)


def task(*regions, image="/data/upload/1/0a1b2c3d-a.png", number=1, **annotation):
    one = {"id": 10, "was_cancelled": False, "ground_truth": False, "result": list(regions)}
    return {"id": number, "data": {"image": image}, "annotations": [one | annotation]}


def make(root, *tasks):
    write_image(root / "images" / "a.png")
    write(root / "project-1.json", list(tasks))
    return root


def test_polygons_brushes_with_holes_ellipses_and_boxes_are_read(tmp_path):
    regions = [
        polygon("1"),
        region("brush", "cat", "2", format="rle", rle=RING),
        region("ellipse", "cat", "3", x=50, y=50, radiusX=10, radiusY=40, rotation=0),
        region("rectangle", "dog", "4", x=50, y=25, width=25, height=50, rotation=0),
        region("rectangle", "dog", "5", x=50, y=25, width=25, height=50, rotation=90),
    ]
    found, problems = load(make(tmp_path, task(*regions)))
    objects = found["images/a.png"]
    assert_objects(objects[:2], [("dog", rectangle(2, 4, 12, 9)), ("cat", ring())])
    np.testing.assert_allclose(objects[2][2], (16, 2, 8, 16), atol=0.01)
    assert_objects(objects[3:], [("dog", None, (20, 5, 10, 10)), ("dog", None, (10, 5, 10, 10))])
    assert problems.counts == {"missing_segmentation": 2}


@pytest.mark.parametrize(
    "given",
    [
        "/data/upload/1/0a1b2c3d-a.png",
        "/data/local-files/?d=somewhere/images/a.png",
        "http://localhost:8080/data/upload/1/0a1b2c3d-a.png",
        "s3://bucket/folder/a.png",
        "a.png",
        "images/a.png",
    ],
)
def test_images_are_found_by_their_names_on_the_server(tmp_path, given):
    assert list(load(make(tmp_path, task(polygon(), image=given)))[0]) == ["images/a.png"]


def test_spaces_in_addresses_are_spaces(tmp_path):
    root = make(tmp_path, task(polygon(), image="/data/upload/1/a%20b.png"))
    write_image(root / "images" / "a b.png")
    assert list(load(root)[0]) == ["images/a b.png"]


def test_shape_and_label_in_two_results_are_one_object(tmp_path):
    shape = {**polygon(), "type": "polygon", "value": {"points": SQUARE}}
    label = {**polygon(), "type": "labels", "value": {"points": SQUARE, "labels": ["dog"]}}
    found, _ = load(make(tmp_path, task(shape, label)))
    assert_objects(found["images/a.png"], [("dog", rectangle(2, 4, 12, 9))])


def test_json_min_is_read(tmp_path):
    sizes = {"original_width": WIDTH, "original_height": HEIGHT}
    one = {"points": SQUARE, "polygonlabels": ["dog"], **sizes}
    flat = {"image": "/data/upload/1/0a1b2c3d-a.png", "id": 4, "label": [one], "annotator": 1}
    found, _ = load(make(tmp_path, flat))
    assert_objects(found["images/a.png"], [("dog", rectangle(2, 4, 12, 9))])


def test_the_ground_truth_of_several_annotations_is_used(tmp_path):
    several = task(polygon(label="cat"))
    for label, fields in (("ape", {"was_cancelled": True}), ("dog", {"ground_truth": True})):
        several["annotations"] += task(polygon(label=label), **fields)["annotations"]
    found, problems = load(make(tmp_path, several))
    assert [one[0] for one in found["images/a.png"]] == ["dog"]
    assert problems.counts == {"further_annotation": 1}


def test_images_that_nobody_annotated_are_not_background(tmp_path):
    write_image(tmp_path / "images" / "b.png")
    write_image(tmp_path / "images" / "c.png")
    empty = task(image="b.png", number=2)
    skipped = task(image="c.png", number=3, was_cancelled=True)
    found, problems = load(make(tmp_path, task(polygon()), empty, skipped))
    assert sorted(found) == ["images/a.png", "images/b.png"]
    assert problems.counts == {"image_not_annotated": 1, "image_without_objects": 1}


def test_what_has_no_area_is_counted(tmp_path):
    point = region("keypoint", "dog", "k", x=1, y=2, width=0.5)
    choice = {"id": "c", "type": "choices", "value": {"choices": ["sunny"]}}
    both = region("polygon", "dog", "b", points=SQUARE)
    both["value"]["polygonlabels"] = ["dog", "cat"]
    found, problems = load(make(tmp_path, task(both, point, choice)))
    assert [one[0] for one in found["images/a.png"]] == ["dog"]
    assert problems.counts == {"several_labels": 1, "unsupported_shape": 2}


@pytest.mark.parametrize(
    ("bad", "kind", "words"),
    [
        (region("polygon", points=[[1, 2], [3]]), "bad_shape", "wanted two percentages"),
        (region("polygon", points="abc"), "bad_shape", "wanted a list"),
        (region("brush", rle=RING[:-20]), "bad_shape", "end in the middle of a number"),
        (region("brush", rle=[300]), "bad_shape", r"outside 0\.\.255"),
        (region("brush", rle="x"), "bad_shape", "wanted a list"),
        (region("rectangle", x=1, y=2, width="3", height=4), "bad_shape", "two percentages"),
        ({**polygon(), "value": {"points": SQUARE}}, "bad_shape", "has no label"),
        ({**polygon(), "image_rotation": 90}, "rotated_image", "in another orientation"),
    ],
)
def test_defects_are_named_and_counted(tmp_path, bad, kind, words):
    root = make(tmp_path, task({**bad, "id": "bad"}, polygon("good")))
    with pytest.raises(CocoError, match=f"{kind}: 1; first: task 1, region bad.*{words}"):
        load(root)
    found, problems = load(root, on_problem="collect")
    assert_objects(found["images/a.png"], [("dog", rectangle(2, 4, 12, 9))])
    assert problems.fatal() == {kind: 1}


def test_tasks_without_an_image_are_counted(tmp_path):
    nameless = task(polygon()) | {"data": {"text": "hello"}}
    root = make(tmp_path, nameless, 5, task(polygon(), image="/data/upload/1/gone.png"))
    _, problems = load(root, on_problem="collect")
    assert problems.fatal() == {"bad_task": 2, "missing_file": 1}
    assert problems.counts["image_not_annotated"] == 1


def test_several_exports_are_not_guessed_at(tmp_path):
    root = make(tmp_path, task(polygon()))
    write(root / "project-2.json", [task(polygon(label="cat"))])
    with pytest.raises(CocoError, match=r"several exports, project-1.json, project-2.json: give"):
        load(root)
    assert load(root / "project-2.json")[0]["images/a.png"][0][0] == "cat"


def test_images_elsewhere_are_named_by_a_flag(tmp_path):
    write_image(tmp_path / "media" / "deep" / "0a1b2c3d-a.png")
    write(tmp_path / "labels" / "export.json", [task(polygon())])
    found, _ = load(tmp_path / "labels", image_root=str(tmp_path / "media"))
    assert list(found) == ["deep/0a1b2c3d-a.png"]


def test_a_list_of_other_things_is_not_label_studios(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"original_width": 3}])[1:-1])
    with pytest.raises(CocoError, match="no COCO annotations"):
        load(tmp_path)
