"""YOLO's segmentation format, read in place and converted."""

import dataclasses

import numpy as np
import pytest

from segjax import cli
from segjax.data import rle
from segjax.data.check import check_dataset
from segjax.data.coco import CocoError
from segjax.data.config import DataConfig
from segjax.data.formats import open_source
from segjax.data.pipeline import open_dataset
from tests.support.format_samples import load
from tests.support.format_samples import ring as wanted_ring
from tests.support.map_samples import write
from tests.support.samples import encoded, picture

SQUARE = "1 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n"
YAML = "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n"


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    (root / "data.yaml").write_text(YAML)
    for split in ("train", "val"):
        for i in range(2):
            write(root / f"images/{split}/{i}.png", encoded(picture(20, 40, i)))
        write(root / f"labels/{split}/0.txt", SQUARE.encode())
    return root


def config_of(root, **fields):
    return DataConfig(root=str(root), cache_dir=str(root.parent / "cache"), **fields)


@pytest.mark.parametrize("name", ["folder", "yolo"])
def test_polygons_are_masks_in_pixels(folder, name):
    dataset = open_dataset(config_of(folder, name=name))
    assert (dataset.class_names, dataset.category_ids) == (("cat", "dog"), (0, 1))
    index = dataset.split("train").index
    assert index[:, :4].tolist() == [[1, 20, 40, 1], [2, 20, 40, 0]]
    wanted = np.zeros((20, 40), bool)
    wanted[5:15, 10:30] = True
    record = open_records_of(dataset)[0]["objects"]
    mask = {"size": [20, 40], "counts": record["segmentation"][0].decode()}
    np.testing.assert_array_equal(rle.decode(mask), wanted)
    np.testing.assert_allclose(record["bbox"][0], [10, 5, 20, 10])
    assert record["area"][0] == 200
    noted = any("data.yaml and labels/*.txt: YOLO" in line for line in dataset.problems)
    assert noted == (name == "folder")


def open_records_of(dataset):
    from segjax.data.build import open_records

    return open_records(dataset.split("train"))


@pytest.mark.parametrize(
    ("yaml", "where"),
    [
        ("train: ../train/images\nval: ../valid/images\nnames: [cat, dog]\n", "{}/images"),
        ("train: /elsewhere/train/images\nval: valid/images\nnames: [cat, dog]\n", "{}/images"),
    ],
)
def test_folders_as_roboflow_and_other_machines_name_them(tmp_path, yaml, where):
    root = tmp_path / "data"
    for split in ("train", "valid"):
        write(root / where.format(split) / "a.jpg", encoded(picture(20, 40), "JPEG"))
        write(root / split / "labels/a.txt", SQUARE.encode())
    (root / "data.yaml").write_text(yaml)
    dataset = open_dataset(config_of(root))
    assert sorted(dataset.splits) == ["train", "val"]
    assert dataset.split("val").index[:, 3].tolist() == [1]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0 0.1 0.2 x", "line 1, is .* wanted numbers"),
        ("7 0.1 0.2 0.3 0.4", r"line 1, has the class 7: the names are of 0\.\.1"),
        ("1 0.1 0.2 0.3 0.4 0.5", "line 1, has 6 numbers: wanted a class and 3 or more points"),
        ("1 10 20 30 40 50 60", "values above 1: wanted fractions of the sides"),
    ],
)
def test_lines_that_are_something_else_are_named(folder, line, words):
    (folder / "labels/train/0.txt").write_text(line)
    with pytest.raises(CocoError, match=words):
        open_dataset(config_of(folder))


def test_bad_lines_are_counted_and_the_others_kept(folder):
    (folder / "labels/train/0.txt").write_text(f"0 0.1 0.2 x\n\n{SQUARE}9 0.5 0.5 0.1 0.1\n")
    found, problems = load(folder, on_problem="collect")
    assert [one[0] for one in found["0.png"]] == ["dog"]
    assert problems.fatal() == {"bad_line": 2}


def test_points_outside_and_labels_without_an_image_are_counted(folder):
    outside = "1 0.25 0.25 1.2 0.25 0.75 0.75\n1 0.25 0.25 1.0004 0.25 0.75 0.75\n"
    (folder / "labels/train/0.txt").write_text(outside)
    (folder / "labels/train/lost.txt").write_text(SQUARE)
    _, problems = load(folder)
    assert problems.counts["point_outside"] == 1
    assert problems.counts["label_without_image"] == 1


def test_a_hole_on_a_bridge_is_a_hole(folder):
    ring = [(5, 3), (30, 3), (30, 12), (5, 12), (5, 3), (10, 6), (10, 9), (20, 9), (20, 6), (10, 6)]
    text = " ".join(f"{x / 40} {y / 20}" for x, y in ring)
    (folder / "labels/train/0.txt").write_text(f"0 {text}\n")
    ((_, mask, _),) = load(folder)[0]["0.png"]
    np.testing.assert_array_equal(mask, wanted_ring())


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images/{}/a.jpg", "labels/{}/a.txt"),
        ("{}/images/a.jpg", "{}/labels/a.txt"),
    ],
)
def test_folders_without_a_yaml_have_their_names_in_a_text_file(tmp_path, images, labels):
    for split in ("train", "valid"):
        write(tmp_path / images.format(split), encoded(picture(20, 40), "JPEG"))
        write(tmp_path / labels.format(split), SQUARE.encode())
    _, problems = load(tmp_path)
    assert problems.counts == {"unnamed_classes": 1}
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    for split in ("train", "val"):
        found, problems = load(tmp_path, split)
        assert [one[0] for one in found["a.jpg"]] == ["dog"]
        assert problems.counts == {}


def test_images_and_labels_alone_are_train(tmp_path):
    write(tmp_path / "images/a.png", encoded(picture(20, 40)))
    write(tmp_path / "labels/a.txt", SQUARE.encode())
    write(tmp_path / "classes.txt", b"cat\ndog\n")
    assert [one[0] for one in load(tmp_path)[0]["a.png"]] == ["dog"]


def test_lists_of_images_and_of_folders(folder):
    for i in range(2):
        write(folder / f"images/more/{i}.png", encoded(picture(20, 40, 5 + i)))
    write(folder / "labels/more/1.txt", SQUARE.encode())
    listed = "./images/train/0.png\n/home/me/data/images/more/1.png\n"
    (folder / "train.txt").write_text(listed)
    names = "names: [cat, dog]\n"
    (folder / "data.yaml").write_text(f"train: train.txt\nval: [images/val, images/more]\n{names}")
    train, val = load(folder)[0], load(folder, "val")[0]
    assert {name: len(objects) for name, objects in train.items()} == {
        "images/train/0.png": 1,
        "images/more/1.png": 1,
    }
    assert len(val) == 4 and len(val["images/more/1.png"]) == 1
    first = open_source(config_of(folder)).fingerprint()
    (folder / "train.txt").write_text("./images/train/0.png\n")
    assert open_source(config_of(folder)).fingerprint() != first


def test_the_yaml_may_have_any_name_and_be_given_itself(folder):
    (folder / "data.yaml").rename(folder / "coco8-seg.yaml")
    assert list(load(folder)[0]) == list(load(folder / "coco8-seg.yaml")[0]) == ["0.png", "1.png"]


def test_key_points_are_refused(folder):
    (folder / "data.yaml").write_text(f"{YAML}kpt_shape: [17, 3]\n")
    with pytest.raises(CocoError, match="kpt_shape: its labels are key points, wanted polygons"):
        load(folder)


def test_boxes_alone_are_boxes_alone(folder):
    for split in ("train", "val"):
        (folder / f"labels/{split}/0.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    dataset = open_dataset(config_of(folder))
    found = open_records_of(dataset)[0]["objects"]
    np.testing.assert_allclose(found["bbox"][0], [10, 5, 20, 10])
    assert found["segmentation"][0] == b""
    problems = check_dataset(config_of(folder))["all splits"]
    assert "none of the 1 objects of train has a mask" in problems.examples["no_masks"][0]


def test_a_changed_label_is_noticed(folder):
    first = open_dataset(config_of(folder)).fingerprint
    (folder / "labels/train/1.txt").write_text(SQUARE)
    assert open_dataset(config_of(folder)).fingerprint != first


def test_it_is_converted_and_checked_by_the_commands(folder, tmp_path, capsys):
    assert cli.main(["check-data", str(folder)]) == 0
    assert "recognised: 1" in capsys.readouterr().out
    out = tmp_path / "coco"
    assert cli.main(["convert-data", str(folder), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "data.yaml and labels/*.txt: YOLO" in text
    assert "YOLO, 2 classes, 4 images, 2 objects" in text
    assert "instances_train.json: 2 images, 1 object" in text
    ours, theirs = (open_dataset(config_of(root)) for root in (out, folder))
    assert ours.class_names == theirs.class_names
    for one, other in zip(open_records_of(ours), open_records_of(theirs), strict=True):
        assert one["image"] == other["image"]
        assert one["objects"]["segmentation"] == other["objects"]["segmentation"]
    assert cli.main(["convert-data", str(folder), "--out", str(out)]) == 1
    assert "is not empty: give a new folder" in capsys.readouterr().err
    linked = tmp_path / "linked"
    assert cli.main(["convert-data", str(folder), "--out", str(linked), "--link"]) == 0
    followed = dataclasses.replace(config_of(linked), follow_links=True)
    assert len(open_dataset(followed).split("train").index) == 2
