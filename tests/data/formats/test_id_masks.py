"""Instance PNGs: a value an object, classes from legends or thousands, and what is none."""

import json

import numpy as np
import pytest
from PIL import Image

from segjax.data.coco import CocoError
from segjax.data.config import DataConfig
from segjax.data.formats import open_source
from segjax.results.save import MaskWriter
from tests.support.format_samples import (
    HEIGHT,
    WIDTH,
    assert_objects,
    load,
    predicted,
    rectangle,
    ring,
    write_image,
)
from tests.support.map_samples import write
from tests.support.samples import encoded

BLOCK = rectangle(32, 12, 38, 18)


def ids(first, second, dtype=np.uint8):
    made = np.zeros((HEIGHT, WIDTH), dtype)
    made[ring()] = first
    made[BLOCK] = second
    return made


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/a.jpg", "masks/a.png"),
        ("images/train/a.jpg", "masks/train/a.png"),
        ("train/images/b/a.jpg", "train/masks/b/a_mask.png"),
        ("imgs/a.jpg", "instances/a_instanceIds.png"),
    ],
)
def test_folders_of_images_and_masks_are_found(tmp_path, image, mask):
    write_image(tmp_path / image, form="JPEG")
    save(tmp_path / mask, ids(7, 3))
    found, problems = load(tmp_path)
    (objects,) = found.values()
    assert_objects(objects, [("object", BLOCK), ("object", ring())])
    assert problems.counts == {}


def test_sixteen_bits_and_colours_are_numbers(tmp_path):
    write_image(tmp_path / "images/a.png")
    write_image(tmp_path / "images/b.png")
    save(tmp_path / "masks/a.png", ids(300, 65535, np.uint16))
    colours = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colours[ring()], colours[BLOCK] = (0, 0, 9), (0, 3, 0)
    save(tmp_path / "masks/b.png", colours)
    found, _ = load(tmp_path)
    assert_objects(found["a.png"], [("object", ring()), ("object", BLOCK)])
    assert_objects(found["b.png"], [("object", BLOCK), ("object", ring())])


def test_thousands_are_lines_of_classes_txt(tmp_path):
    write_image(tmp_path / "images/a.png")
    save(tmp_path / "masks/a.png", ids(2001, 1000, np.uint16))
    (tmp_path / "classes.txt").write_text("dog\nowl\n")
    found, _ = load(tmp_path)
    assert_objects(found["a.png"], [("dog", BLOCK), ("owl", ring())])
    save(tmp_path / "masks/a.png", ids(3001, 12, np.uint16))
    _, problems = load(tmp_path, on_problem="collect")
    assert problems.fatal()["object_without_class"] == 2


def test_our_own_predictions_come_back_with_their_classes(tmp_path):
    write_image(tmp_path / "images/a.png")
    writer = MaskWriter(tmp_path)
    masks = [ring(), BLOCK]
    writer.add("a.png", "a", np.zeros((HEIGHT, WIDTH, 3), np.uint8), predicted(masks, [1, 0]))
    assert_objects(load(tmp_path)[0]["a.png"], [("dog", ring()), ("cat", BLOCK)])
    (tmp_path / "masks/a.json").write_text(json.dumps({"1": {"class": "dog"}}))
    _, problems = load(tmp_path, on_problem="collect")
    assert problems.fatal() == {"object_without_class": 1}


def test_black_and_white_masks_are_refused_with_what_reads_them(tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path / f"images/{name}.png")
        save(tmp_path / f"masks/{name}.png", ids(255, 255))
    with pytest.raises(CocoError, match=r"0 and 255 alone.*--data\.semantic=folder"):
        load(tmp_path)


def test_objects_in_several_places_are_noted(tmp_path):
    write_image(tmp_path / "images/a.png")
    save(tmp_path / "masks/a.png", ids(1, 1))
    found, problems = load(tmp_path)
    assert_objects(found["a.png"], [("object", ring() | BLOCK)])
    assert problems.counts == {"object_in_parts": 1}


def test_what_has_no_partner_is_counted(tmp_path):
    for name in ("a", "b", "d"):
        write_image(tmp_path / f"images/{name}.png")
    save(tmp_path / "masks/a.png", ids(1, 2))
    save(tmp_path / "masks/c.png", ids(1, 2))
    write(tmp_path / "masks/d.png", encoded(ids(1, 2), "JPEG"))
    found, problems = load(tmp_path, on_problem="collect")
    assert list(found) == ["a.png"]
    assert problems.counts == {"image_not_annotated": 1, "label_without_image": 1, "bad_mask": 1}


def test_a_changed_mask_is_noticed(tmp_path):
    write_image(tmp_path / "images/a.png")
    save(tmp_path / "masks/a.png", ids(1, 2))
    source = open_source(DataConfig(root=str(tmp_path)))
    before = source.fingerprint()
    save(tmp_path / "masks/a.png", ids(1, 3))
    assert source.fingerprint() != before


def test_cityscapes_has_its_eight_classes_and_groups(tmp_path):
    labels = np.full((HEIGHT, WIDTH), 7, np.uint16)  # road
    labels[ring()] = 26001
    labels[BLOCK] = 24
    labels[:2, :2] = 29000
    for split in ("train", "val"):
        write_image(tmp_path / f"leftImg8bit/{split}/bonn/bonn_1_2_leftImg8bit.png")
        save(tmp_path / f"gtFine/{split}/bonn/bonn_1_2_gtFine_instanceIds.png", labels)
    found, problems = load(tmp_path, "val")
    objects = found["bonn/bonn_1_2_leftImg8bit.png"]
    assert_objects(objects, [("person", BLOCK), ("car", ring())])
    assert problems.counts == {"ignored_label": 1, "crowd_object": 1}


def test_an_image_of_cityscapes_without_its_labels_is_named(tmp_path):
    write_image(tmp_path / "leftImg8bit/train/bonn/bonn_1_2_leftImg8bit.png")
    (tmp_path / "gtFine/train").mkdir(parents=True)
    with pytest.raises(CocoError, match=r"bad_mask: 1; first: .*bonn_1_2_gtFine_instanceIds\.png"):
        load(tmp_path)
