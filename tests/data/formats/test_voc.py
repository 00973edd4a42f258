"""Pascal VOC: PNGs of objects and classes of any colour type, lists of splits, boxes, polygons."""

import numpy as np
import pytest
from PIL import Image

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
from tests.support.samples import encoded

SECOND = rectangle(32, 12, 38, 18)


def numbers(first, second, void=255):
    """Numbers of the ring and of another object, with a void border above the second."""
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids[ring()] = first
    ids[SECOND] = second
    ids[11, 32:38] = void
    return ids


def voc_colour(index):
    """The colour of a number in VOC's palette, as its development kit makes it."""
    red = green = blue = 0
    for place in range(8):
        red |= (index & 1) << (7 - place)
        green |= (index >> 1 & 1) << (7 - place)
        blue |= (index >> 2 & 1) << (7 - place)
        index >>= 3
    return red, green, blue


def as_palette(ids):
    image = Image.fromarray(ids, "P")
    image.putpalette([channel for index in range(256) for channel in voc_colour(index)])
    return image


def as_colours(ids):
    table = np.array([voc_colour(index) for index in range(256)], np.uint8)
    return Image.fromarray(table[ids])


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def xml(*objects, name="a.jpg", size=(HEIGHT, WIDTH)):
    sides = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}</filename>{sides}{''.join(objects)}</annotation>".encode()


def one(name, box=(3, 4, 12, 9), more=""):
    tags = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    bndbox = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    return f"<object><name>{name}</name><bndbox>{bndbox}</bndbox>{more}</object>"


def make(root, objects, classes, stem="a", how=as_palette):
    """Writes an image with its PNGs of objects and of classes."""
    write_image(root / "JPEGImages" / f"{stem}.jpg", form="JPEG")
    save(how(objects), root / "SegmentationObject" / f"{stem}.png")
    if classes is not None:
        save(how(classes), root / "SegmentationClass" / f"{stem}.png")


def test_the_masks_of_voc2012_have_the_classes_of_their_pixels(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    make(root, numbers(1, 2), numbers(15, 8))
    # The order of the xml is another one, and does not matter.
    write(root / "Annotations/a.xml", xml(one("cat"), one("person")))
    for split in ("train", "val"):
        write(root / f"ImageSets/Segmentation/{split}.txt", b"a\n")
    for split in ("train", "val"):
        found, problems = load(tmp_path, split)
        assert_objects(found["JPEGImages/a.jpg"], [("person", ring()), ("cat", SECOND)])
        assert problems.counts == {}


@pytest.mark.parametrize("how", [as_palette, as_colours])
def test_cvats_segmentation_masks_have_a_map_of_colours(tmp_path, how):
    make(tmp_path, numbers(1, 2), numbers(2, 1), how=how)
    text = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:128,0,0::\nowl:0,128,0::\n"
    (tmp_path / "labelmap.txt").write_text(text)
    write(tmp_path / "ImageSets/Segmentation/default.txt", b"a\n")
    found, _ = load(tmp_path)
    assert_objects(
        sorted(found["JPEGImages/a.jpg"], key=lambda o: o[0])[::-1],
        [("owl", ring()), ("dog", SECOND)],
    )


def test_class_names_as_labelme2voc_writes_them(tmp_path):
    make(tmp_path, numbers(1, 2), numbers(2, 1))
    (tmp_path / "class_names.txt").write_text("_background_\ndog\nowl\n")
    found, _ = load(tmp_path)
    assert_objects(found["JPEGImages/a.jpg"], [("owl", ring()), ("dog", SECOND)])


def test_classes_of_ones_own_come_from_the_order_of_the_xml(tmp_path):
    make(tmp_path, numbers(1, 2), numbers(15, 8))
    write(tmp_path / "Annotations/a.xml", xml(one("bolt"), one("nut")))
    found, _ = load(tmp_path)
    assert_objects(found["JPEGImages/a.jpg"], [("bolt", ring()), ("nut", SECOND)])


def test_objects_that_nothing_names_are_counted(tmp_path):
    make(tmp_path, numbers(1, 2), numbers(15, 8))
    write(tmp_path / "Annotations/a.xml", xml(one("bolt")))
    _, problems = load(tmp_path, on_problem="collect")
    assert problems.fatal()["object_without_class"] == 2
    assert "value 1: labelmap.txt, class_names.txt" in problems.examples["object_without_class"][0]


def test_images_of_a_list_without_a_png_are_counted(tmp_path):
    make(tmp_path, numbers(1, 2), numbers(15, 8))
    write(
        tmp_path / "Annotations/a.xml",
        xml(one("person"), one("cat", more="<difficult>1</difficult>")),
    )
    write(tmp_path / "ImageSets/Segmentation/train.txt", b"a\nb\n")
    found, problems = load(tmp_path)
    assert list(found) == ["JPEGImages/a.jpg"]
    assert problems.counts == {"image_not_annotated": 1, "difficult_object": 1}


@pytest.mark.parametrize("nested", [True, False])
def test_boxes_alone_are_boxes_alone(tmp_path, nested):
    image, text = ("JPEGImages/a.png", "Annotations/a.xml") if nested else ("a.png", "a.xml")
    write_image(tmp_path / image)
    write_image(tmp_path / "without.png")
    write(tmp_path / text, xml(one("dog"), name="a.png"))
    found, problems = load(tmp_path)
    # First and last pixel, counted from 1, are both in the box.
    assert_objects(found[image], [("dog", None, (2, 3, 10, 6))])
    assert problems.counts == {"missing_segmentation": 1, "image_not_annotated": 1}


def test_polygons_of_roboflow_are_masks(tmp_path):
    corners = [(2, 4), (12, 4), (12, 9), (2, 9)]
    tags = "".join(f"<x{k}>{x}</x{k}><y{k}>{y}</y{k}>" for k, (x, y) in enumerate(corners, 1))
    points = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in corners)
    for split, polygon in (("train", tags), ("valid", points)):
        write_image(tmp_path / split / "a_jpg.rf.12.jpg", form="JPEG")
        more = f"<polygon>{polygon}</polygon>"
        write(tmp_path / split / "a_jpg.rf.12.xml", xml(one("dog", more=more)))
    for split in ("train", "val"):
        found, _ = load(tmp_path, split)
        assert_objects(found["a_jpg.rf.12.jpg"], [("dog", rectangle(2, 4, 12, 9))])


def test_images_of_one_name_in_two_folders_are_two_images(tmp_path):
    for folder in ("b", "c"):
        write_image(tmp_path / folder / "a.png")
        write(tmp_path / folder / "a.xml", xml(one("dog"), name="a.png"))
    assert list(load(tmp_path)[0]) == ["b/a.png", "c/a.png"]


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        (xml(one("dog", box=("x", 1, 2, 3)), name="a.png"), "bad_shape", "'x' is not a number"),
        (xml(one(""), name="a.png"), "bad_shape", "it has no name"),
        (xml(one("dog", more="<polygon/>"), name="a.png"), "bad_shape", "has no points"),
        (b"<annotation>", "bad_annotation_file", "is not valid XML"),
        (b"<html/>", "bad_annotation_file", "begins with <html>, wanted <annotation>"),
        (b"<!DOCTYPE a><annotation/>", "bad_annotation_file", "declares a document type"),
    ],
)
def test_defects_are_named_and_counted(tmp_path, text, kind, words):
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.png")
    write(tmp_path / "b.xml", xml(one("dog"), name="b.png"))
    write(tmp_path / "a.xml", text)
    with pytest.raises(CocoError, match=f"{kind}: 1; first: .*a.xml.*{words}"):
        load(tmp_path)
    found, problems = load(tmp_path, on_problem="collect")
    assert_objects(found["b.png"], [("dog", None, (2, 3, 10, 6))])
    assert problems.fatal() == {kind: 1}


def test_masks_of_another_size_and_kind_are_counted(tmp_path):
    make(tmp_path, numbers(1, 2), None, stem="a")
    make(tmp_path, numbers(1, 2), numbers(1, 1)[:10], stem="b")
    make(tmp_path, numbers(1, 2), numbers(1, 1), stem="c")
    write(tmp_path / "SegmentationObject/d.png", encoded(numbers(1, 2), "JPEG"))
    (tmp_path / "class_names.txt").write_text("_background_\ndog\n")
    _, problems = load(tmp_path, on_problem="collect")
    assert problems.fatal()["bad_mask"] == 2
    assert problems.fatal()["object_without_class"] == 2
    assert any("is (20, 40), and" in where for where in problems.examples["bad_mask"])


def test_several_years_are_not_guessed_at(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        make(tmp_path / year, numbers(1, 2), numbers(15, 8))
    with pytest.raises(CocoError, match="VOC2007, VOC2012: give one of them"):
        load(tmp_path)
