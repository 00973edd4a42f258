"""CVAT's xml for images: shapes, groups, subsets, and files that are something else."""

import numpy as np
import pytest

from segjax.data.check import splits_to_check
from segjax.data.coco import CocoError
from segjax.data.config import DataConfig
from tests.support.format_samples import (
    HEIGHT,
    WIDTH,
    assert_objects,
    load,
    rectangle,
    ring,
    write_image,
)

POLYGON = '<polygon label="dog" points="2,4;12,4;12,9;2,9" z_order="0"></polygon>'


def ring_runs():
    """Runs of the ring, row by row through its own box, zeros first."""
    rows = ring()[3:12, 5:30].ravel().astype(int)
    changes = np.flatnonzero(np.diff(rows, prepend=0))
    return np.diff([0, *changes, rows.size]).tolist()


def mask(label, **fields):
    more = " ".join(f'{name}="{value}"' for name, value in fields.items())
    runs = ", ".join(map(str, ring_runs()))
    return f'<mask label="{label}" rle="{runs}" left="5" top="3" width="25" height="9" {more}/>'


def image(name, *shapes, **fields):
    more = " ".join(f'{key}="{value}"' for key, value in fields.items())
    size = f'width="{WIDTH}" height="{HEIGHT}"'
    return f'<image id="0" name="{name}" {size} {more}>{"".join(shapes)}</image>'


def document(*images, labels=("dog", "cat")):
    named = "".join(f"<label><name>{name}</name></label>" for name in labels)
    meta = f"<meta><task><labels>{named}</labels></task></meta>"
    content = f"<version>1.1</version>{meta}{''.join(images)}"
    return f'<?xml version="1.0"?><annotations>{content}</annotations>'


def make(root, *shapes):
    write_image(root / "images" / "a.png")
    (root / "annotations.xml").write_text(document(image("a.png", *shapes)))
    return root


def test_polygons_masks_with_holes_ellipses_and_boxes_are_read(tmp_path):
    ellipse = '<ellipse label="cat" cx="20" cy="10" rx="8" ry="4" rotation="90"/>'
    box = '<box label="cat" xtl="20" ytl="5" xbr="30" ybr="15"/>'
    turned = '<box label="cat" xtl="20" ytl="8" xbr="30" ybr="12" rotation="90.0"/>'
    found, problems = load(make(tmp_path, POLYGON, mask("cat"), box, turned, ellipse))
    objects = found["images/a.png"]
    wanted = [
        ("dog", rectangle(2, 4, 12, 9)),
        ("cat", ring()),
        ("cat", None, (20, 5, 10, 10)),
        ("cat", None, (23, 5, 4, 10)),
    ]
    assert_objects(objects[:4], wanted)
    np.testing.assert_allclose(objects[4][2], (16, 2, 8, 16), atol=0.01)
    assert abs(objects[4][1].sum() - np.pi * 32) < 6
    assert problems.counts == {"missing_segmentation": 2}


def test_classes_are_in_the_order_of_the_task_whether_used_or_not(tmp_path):
    write_image(tmp_path / "a.png")
    text = document(image("a.png", POLYGON), labels=("zebra", "dog", "ape"))
    (tmp_path / "annotations.xml").write_text(text)
    dataset = splits_to_check(DataConfig(root=str(tmp_path)))["train"].load()
    assert [(c.id, c.name) for c in dataset.categories] == [(1, "zebra"), (2, "dog"), (3, "ape")]


def test_shapes_of_one_label_and_group_are_one_object(tmp_path):
    part = '<polygon label="dog" points="32,2;38,2;38,8;32,8" group_id="3"/>'
    shapes = [POLYGON.replace("z_order", 'group_id="3" z_order'), part, mask("dog", group_id=3)]
    found, _ = load(make(tmp_path, *shapes, mask("cat", group_id=3)))
    whole = rectangle(2, 4, 12, 9) | rectangle(32, 2, 38, 8) | ring()
    assert_objects(found["images/a.png"], [("dog", whole), ("cat", ring())])


def test_subsets_are_splits(tmp_path):
    write_image(tmp_path / "images" / "Train" / "a.png")
    write_image(tmp_path / "images" / "Validation" / "a.png")
    images = [image("a.png", POLYGON, subset=name) for name in ("Train", "Validation")]
    (tmp_path / "annotations.xml").write_text(document(*images))
    assert list(load(tmp_path, "train")[0]) == ["images/Train/a.png"]
    assert list(load(tmp_path, "val")[0]) == ["images/Validation/a.png"]


def test_other_subsets_are_no_splits(tmp_path):
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name)
    images = [image("a.png", POLYGON, subset="Train"), image("b.png", POLYGON, subset="spring")]
    (tmp_path / "annotations.xml").write_text(document(*images))
    assert list(load(tmp_path, "train")[0]) == ["a.png", "b.png"]


def test_shapes_without_an_area_are_counted(tmp_path):
    names = ("polyline", "points", "cuboid", "skeleton", "tag")
    shapes = [f'<{name} label="dog" points="1,2;3,4"/>' for name in names]
    found, problems = load(make(tmp_path, POLYGON, *shapes))
    assert len(found["images/a.png"]) == 1
    assert problems.counts == {"unsupported_shape": 5}


@pytest.mark.parametrize(
    ("shape", "kind", "words"),
    [
        ('<polygon label="dog" points="1,2;3"/>', "bad_shape", "wanted x,y;x,y"),
        ('<polygon label="dog" points="1,2;3,x;4,5"/>', "bad_shape", "'x' is not a number"),
        ('<polygon label="dog" points="1,2;3,nan;4,5"/>', "bad_shape", "not a finite number"),
        ('<box label="dog" xtl="1" ytl="2" xbr="3"/>', "bad_shape", "'' is not a number"),
        (
            mask("dog").replace('rle="', 'rle="1, '),
            "bad_shape",
            "runs of 226 pixels in a mask of 9",
        ),
        (mask("dog").replace('="25"', '="9e8"'), "bad_shape", "a mask of 9 x 900000000 pixels"),
        (mask("dog").replace('rle="', 'rle="-1, 1, '), "bad_shape", "runs of 225 pixels"),
    ],
)
def test_defects_are_named_and_counted(tmp_path, shape, kind, words):
    root = make(tmp_path, shape, POLYGON)
    with pytest.raises(CocoError, match=f"{kind}: 1; first: .*a.png.*{words}"):
        load(root)
    found, problems = load(root, on_problem="collect")
    assert_objects(found["images/a.png"], [("dog", rectangle(2, 4, 12, 9))])
    assert problems.fatal() == {kind: 1}


def test_missing_and_unnamed_images_are_counted(tmp_path):
    make(tmp_path)
    write_image(tmp_path / "images" / "b.png")
    (tmp_path / "annotations.xml").write_text(document(image("a.png"), image("c.png", POLYGON)))
    _, problems = load(tmp_path, on_problem="collect")
    counts = problems.counts
    assert (counts["missing_file"], counts["image_not_annotated"]) == (1, 1)


def test_tracks_are_refused_by_the_name_of_the_format_to_export(tmp_path):
    track = '<track id="0" label="dog"><polygon frame="0" points="1,2;3,4;5,6"/></track>'
    (tmp_path / "annotations.xml").write_text(f"<annotations>{track}</annotations>")
    with pytest.raises(CocoError, match=r'CVAT for video.*export .* as "CVAT for images 1\.1"'):
        load(tmp_path)


def test_entities_are_refused(tmp_path):
    make(tmp_path, POLYGON)
    path = tmp_path / "annotations.xml"
    bomb = '<!DOCTYPE a [<!ENTITY b "boom">]><annotations>'
    path.write_text(path.read_text().replace("<annotations>", bomb).replace("a.png", "&b;"))
    with pytest.raises(CocoError, match=r"annotations.xml declares a document type \('a'\)"):
        load(tmp_path)


def test_several_files_are_not_guessed_at(tmp_path):
    make(tmp_path, POLYGON)
    (tmp_path / "b.xml").write_text(document(image("a.png", POLYGON)))
    with pytest.raises(CocoError, match=r"several files of CVAT, annotations.xml, b.xml: give one"):
        load(tmp_path)
    found, _ = load(tmp_path / "b.xml")
    assert_objects(found["images/a.png"], [("dog", rectangle(2, 4, 12, 9))])
