"""YOLO's segmentation format, read in place and converted."""

import dataclasses

import numpy as np
import pytest

from segjax import cli
from segjax.data import rle
from segjax.data.coco import CocoError
from segjax.data.config import DataConfig
from segjax.data.pipeline import open_dataset
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
        ("7 0.1 0.2 0.3 0.4", r"line 1, has the class 7: data.yaml names 0\.\.1"),
        ("1 0.1 0.2 0.3 0.4 0.5", "line 1, has 6 numbers: wanted a class and 3 or more points"),
        ("1 10 20 30 40 50 60", "values above 1: wanted fractions of the sides"),
    ],
)
def test_lines_that_are_something_else_are_named(folder, line, words):
    (folder / "labels/train/0.txt").write_text(line)
    with pytest.raises(CocoError, match=words):
        open_dataset(config_of(folder))


def test_boxes_alone_are_boxes_alone(folder):
    for split in ("train", "val"):
        (folder / f"labels/{split}/0.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    dataset = open_dataset(config_of(folder))
    found = open_records_of(dataset)[0]["objects"]
    np.testing.assert_allclose(found["bbox"][0], [10, 5, 20, 10])
    assert found["segmentation"][0] == b""


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
    assert "instances_train.json: 2 images, 1 objects" in text
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
