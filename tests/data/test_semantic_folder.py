"""Plain label PNGs, with and without an annotation file of instances."""

import dataclasses
import shutil

import numpy as np
import pytest

from segjax.data.check import check_dataset
from segjax.data.coco import CocoError
from segjax.data.config import DataConfig
from segjax.data.images import decode_image
from segjax.data.pipeline import eval_iterator, open_dataset, train_iterator
from tests.support.map_samples import (
    PLAIN_NAMES,
    SIZES,
    instances,
    labels_of,
    make_everything,
    plain_labels,
    write,
)
from tests.support.samples import encoded, picture


@pytest.fixture
def config(tmp_path):
    """Returns a config with an annotation file."""
    return dataclasses.replace(make_everything(tmp_path), semantic="folder")


@pytest.fixture
def alone(tmp_path):
    """Images in nested folders with their labels, but without annotations."""
    for split, names in (("train", ("a/2.jpeg", "a/10.png", "b.PNG")), ("val", ("b.PNG",))):
        for seed, name in enumerate(names):
            form = "JPEG" if name.endswith("jpeg") else "PNG"
            write(tmp_path / split / name, encoded(picture(20, 30, seed), form))
            label = (tmp_path / "labels" / split / name).with_suffix(".png")
            write(label, encoded(alone_labels(seed)))
    write(tmp_path / "train/notes.txt", b"no image")
    write(tmp_path / "train/.hidden.png", b"no image")
    write(tmp_path / "labels/train/.hidden.png", b"")
    return DataConfig(
        root=str(tmp_path),
        cache_dir=str(tmp_path / "cache"),
        semantic="folder",
        instances=False,
        resize="none",
        batch_size=3,
        eval_batch_size=3,
        flip=False,
        size_divisor=1,
    )


def alone_labels(seed):
    return np.random.default_rng(seed).integers(0, 7, (20, 30), dtype=np.uint8)


def test_images_and_labels_are_enough(alone):
    dataset = open_dataset(alone)
    assert (dataset.class_names, dataset.category_ids) == ((), ())
    assert dataset.semantic_names == tuple("0123456")
    assert dataset.split("train").index.tolist() == [[i, 20, 30, 0, 0, 0] for i in (1, 2, 3)]
    with train_iterator(dataset, alone, seed=0) as batches:
        batch = next(batches)
    assert sorted(batch["image_ids"]) == [1, 2, 3]
    seeds = {1: 1, 2: 0, 3: 2}  # in order of file names: "a/10.png" comes first
    for number, image, labels in zip(
        batch["image_ids"], batch["images"], batch["gt_semantic"], strict=True
    ):
        np.testing.assert_array_equal(labels, alone_labels(seeds[number]))
        if number != 2:
            np.testing.assert_array_equal(image, picture(20, 30, seeds[number]))
    with eval_iterator(dataset, "val", alone) as batches:
        assert next(batches)["image_ids"].tolist() == [1, -1, -1]
    with pytest.raises(ValueError, match='"val" has images and labels, but no annotated objects'):
        dataset.instances("val")


def test_objects_without_annotation_file_are_refused(alone):
    words = r"no COCO annotations in .*only label PNGs alone need none.*instances=False"
    with pytest.raises(CocoError, match=words):
        open_dataset(dataclasses.replace(alone, instances=True))
    with pytest.raises(CocoError, match="no COCO annotations in"):
        open_dataset(dataclasses.replace(alone, semantic="none"))


def test_bad_images_without_annotation_file(alone, tmp_path):
    write(tmp_path / "train/c.png", encoded(picture(20, 30))[:400])
    write(tmp_path / "train/d.png", b"nothing")
    with pytest.raises(CocoError, match=r"image 4 \(c\.png\) cannot be decoded"):
        open_dataset(alone)
    dataset = open_dataset(dataclasses.replace(alone, on_bad_image="skip"))
    assert dataset.split("train").skipped == 2
    assert len(dataset.split("train").index) == 3
    found = check_dataset(alone)["train"]
    assert found.fatal() == {"bad_image": 2, "missing_map": 1}
    shutil.rmtree(tmp_path / "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(CocoError, match=r"train holds no image: wanted files ending in \.bmp, "):
        open_dataset(alone)
    (tmp_path / "train").rmdir()
    assert list(open_dataset(alone).splits) == ["val"]
    (tmp_path / "val").rename(tmp_path / "other")
    with pytest.raises(CocoError, match=r"no images in .*wanted the folders train/ and val/"):
        open_dataset(alone)


def test_links_out_of_the_folder_are_refused(alone, tmp_path):
    write(tmp_path / "elsewhere/secret.png", encoded(picture(20, 30)))
    (tmp_path / "train/z.png").symlink_to(tmp_path / "elsewhere/secret.png")
    with pytest.raises(CocoError, match=r"link_out_of_folder.*'z\.png'.*--data.follow-links=True"):
        open_dataset(alone)


@pytest.mark.parametrize("ignore", [0, 3, 254])
def test_one_more_number_counts_for_nothing(config, tmp_path, ignore):
    labels = plain_labels(1)
    labels[5:9] = ignore
    write(tmp_path / "labels/train/1.png", encoded(labels))
    config = dataclasses.replace(config, semantic_ignore=ignore)
    dataset = open_dataset(config)
    assert dataset.semantic_names == PLAIN_NAMES
    expected = np.where(labels == ignore, 255, labels)
    assert (expected == 255).sum() > (labels == 255).sum()
    np.testing.assert_array_equal(dataset.semantic_labels("train")[1], expected)
    write(tmp_path / "labels/train/1.png", encoded(np.full(SIZES[1], 253, np.uint8)))
    values = rf"the value 253: wanted 0\.\.4, the lines of classes\.txt, or {ignore} or 255"
    with pytest.raises(CocoError, match=values):
        open_dataset(config)


def test_without_names_classes_are_numbered_up_to_the_largest_of_all_splits(config, tmp_path):
    (tmp_path / "labels/classes.txt").unlink()
    assert open_dataset(config).semantic_names == tuple("01234")
    write(tmp_path / "labels/val2017/2.png", encoded(np.full(SIZES[2], 11, np.uint8)))
    assert len(open_dataset(config).semantic_names) == 12
    assert len(open_dataset(dataclasses.replace(config, semantic_ignore=11)).semantic_names) == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", r"classes\.txt is empty: wanted the names"),
        (b"\n \n", "is empty"),
        (b"road\n\nsky", "line 2, is '': wanted the name of a class of its own"),
        (b"road\nsky\nroad\n", "line 3, is 'road'"),
        (b"road\n\xff\xfe", r"classes\.txt cannot be read: 'utf-8'"),
        ("\n".join(map(str, range(256))).encode(), "gives 256 classes.*at most 255"),
    ],
)
def test_files_of_names_that_cannot_be_used(config, tmp_path, text, words):
    write(tmp_path / "labels/classes.txt", text)
    with pytest.raises(CocoError, match=words):
        open_dataset(config)


def test_names_may_come_from_windows(config, tmp_path):
    write(tmp_path / "labels/classes.txt", "\ufeffStraße\r\n b \r\nc\r\nd\r\ne\r\n\r\n".encode())
    assert open_dataset(config).semantic_names == ("Straße", "b", "c", "d", "e")


def test_labels_of_another_folder(config, tmp_path):
    (tmp_path / "labels").rename(tmp_path / "elsewhere")
    apart = dataclasses.replace(config, semantic_root=str(tmp_path / "elsewhere"))
    names, source, images = labels_of(apart, "folder", "val")
    assert names == PLAIN_NAMES
    np.testing.assert_array_equal(source.read(images[2]), plain_labels(2))
    jpeg = dataclasses.replace(images[2], file_name="2.jpg")
    np.testing.assert_array_equal(source.read(jpeg), plain_labels(2))


def test_splits_must_agree_on_the_names(config, tmp_path):
    shutil.move(tmp_path / "labels/val2017", tmp_path / "val2017_moved")
    apart = tmp_path / "apart"
    shutil.move(tmp_path / "labels", apart / "labels")
    shutil.move(tmp_path / "val2017_moved", apart / "val")
    write(apart / "classes.txt", b"a\nb\nc\nd\ne")
    with pytest.raises(CocoError, match="the splits have different classes"):
        open_dataset(dataclasses.replace(config, semantic_root=str(apart)))


def test_without_instances_every_image_counts(config, tmp_path):
    """Images with no or too many objects are trained on; batches contain no objects."""
    data = instances()
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] == 1]
    write(tmp_path / "annotations/instances_train.json", data)
    few = dataclasses.replace(config, max_instances=1, batch_size=1)
    dataset = open_dataset(few)
    with pytest.raises(ValueError, match="image 1 has 2 instances, max_instances is 1"):
        train_iterator(dataset, few, seed=0)
    labels = dataclasses.replace(few, instances=False, max_instances=50, flip=True)
    assert open_dataset(labels).fingerprint == dataset.fingerprint
    seen = set()
    with train_iterator(dataset, labels, seed=0) as batches:
        state = batches.get_state()
        for _ in range(4):
            batch = next(batches)
            seen |= set(batch["image_ids"].tolist())
            assert not batch["gt_valid"].any()
            assert batch["gt_boxes"].shape == (1, 1, 4)
            assert batch["gt_masks"].shape == (1, 1, 1, 1)
            assert batch["truncated"].sum() == batch["dropped_degenerate"].sum() == 0
    assert seen == {1, 2}
    objects = dataclasses.replace(labels, instances=True)
    with train_iterator(dataset, objects, seed=0) as batches:
        assert {int(next(batches)["image_ids"][0]) for _ in range(4)} == {1}
        with pytest.raises(ValueError, match="labels alone"):
            batches.set_state(state)
    with eval_iterator(dataset, "val", labels) as batches:
        assert not next(batches)["gt_valid"].any()
    neither = dataclasses.replace(labels, semantic="none")
    with pytest.raises(ValueError, match='instances=False and semantic="none" leave nothing'):
        train_iterator(dataset, neither, seed=0)


@pytest.mark.parametrize("mask_frame", ["box", "image"])
def test_labels_are_the_same_without_instances(config, mask_frame):
    """Shuffling, scales and flips do not depend on the instances."""
    config = dataclasses.replace(
        config,
        mask_frame=mask_frame,
        flip=True,
        resize="shortest_edge",
        short_side=(15, 33),
        filter_empty=False,
    )
    dataset = open_dataset(config)
    without = dataclasses.replace(config, instances=False)
    with (
        train_iterator(dataset, config, seed=1) as full,
        train_iterator(dataset, without, seed=1) as bare,
    ):
        for _ in range(3):
            first, second = next(full), next(bare)
            for name in ("images", "gt_semantic", "image_ids", "image_sizes"):
                np.testing.assert_array_equal(first[name], second[name])


def test_labels_of_2017_need_their_folder(tmp_path):
    with pytest.raises(ValueError, match=r'semantic="folder" with name="2017" needs semantic_root'):
        open_dataset(DataConfig(name="2017", semantic="folder", cache_dir=str(tmp_path)))
    with pytest.raises(ValueError, match=r"semantic_ignore is 256: wanted a value of 8 bits"):
        DataConfig(semantic_ignore=256)


def test_pictures_keep_their_bytes(alone, tmp_path):
    """A JPEG keeps its bytes in the record and decodes like any other."""
    dataset = open_dataset(alone)
    with train_iterator(dataset, alone, seed=0) as batches:
        batch = next(batches)
    (row,) = np.flatnonzero(batch["image_ids"] == 2)
    expected = decode_image((tmp_path / "train/a/2.jpeg").read_bytes())
    np.testing.assert_array_equal(batch["images"][row], expected)
