"""Validation images taken from train: by groups, by a seed, and written down."""

import json
import shutil

import numpy as np
import pytest

from segjax import cli
from segjax.data.build import open_records
from segjax.data.check import check_dataset, splits_to_check
from segjax.data.coco import CocoError
from segjax.data.config import DataConfig
from segjax.data.pipeline import open_dataset
from segjax.data.prepared import SET_ASIDE
from tests.support.format_samples import load
from tests.support.map_samples import write
from tests.support.samples import annotation, content, encoded, picture

COUNT = 20


def make(root, copies=(), count=COUNT):
    """Writes a single json with images; `copies` are (image, of) with equal contents."""
    objects = [annotation(i, i, (3, 4, 5, 6)) for i in range(1, count + 1)]
    write(root / "labels.json", content([(i, 20, 40) for i in range(1, count + 1)], objects))
    seeds = dict(copies)
    for i in range(1, count + 1):
        write(root / "data" / f"{i}.png", encoded(picture(20, 40, seeds.get(i, i))))
    return root


def names(root, split="val", **fields):
    return set(load(root, split, **fields)[0])


def test_the_share_is_taken_once_and_nothing_is_lost(tmp_path):
    root = make(tmp_path)
    fields = {"val_fraction": 0.25}
    train, val = (names(root, split, **fields) for split in ("train", "val"))
    assert len(val) == 5 and not train & val
    assert train | val == {f"{i}.png" for i in range(1, COUNT + 1)}
    _, problems = load(root, "val", **fields)
    assert problems.counts == {"set_aside": 5}


def test_the_seed_chooses_and_names_do_not_matter(tmp_path):
    root = make(tmp_path / "a")
    chosen = names(root, val_fraction=0.25)
    assert chosen == names(root, val_fraction=0.25)
    assert chosen != names(root, val_fraction=0.25, val_seed=1)
    other = tmp_path / "b"
    shutil.copytree(root, other)
    data = json.loads((other / "labels.json").read_text())
    for image in data["images"]:
        old = image["file_name"]
        image["file_name"] = f"renamed-{1000 - image['id']}.png"
        (other / "data" / old).rename(other / "data" / image["file_name"])
    write(other / "labels.json", data)
    renamed = {f"renamed-{1000 - int(name[:-4])}.png" for name in chosen}
    assert names(other, val_fraction=0.25) == renamed


def test_an_image_more_moves_few_others(tmp_path):
    before = names(make(tmp_path / "a"), val_fraction=0.25)
    after = names(make(tmp_path / "b", count=COUNT + 1), val_fraction=0.25)
    assert len(before - after) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_equal_pictures_stay_together(tmp_path, seed):
    root = make(tmp_path, copies=[(2, 1), (3, 1), (11, 10), (12, 10), (13, 10)])
    fields = {"val_fraction": 0.3, "val_seed": seed}
    for split in ("train", "val"):
        found = names(root, split, **fields)
        for group in ((1, 2, 3), (10, 11, 12, 13)):
            assert len(found & {f"{i}.png" for i in group}) in (0, len(group))
    assert load(root, "train", **fields)[1].counts["same_picture"] == 2


def test_images_of_one_source_stay_together(tmp_path):
    root = make(tmp_path)
    pattern = "^(1?)[0-9].png"  # 1 to 9 are one source, 10 to 19 another, 20 stands alone
    val = names(root, val_fraction=0.5, val_group=pattern)
    assert len(val) in (9, 10)
    with pytest.raises(ValueError, match=r"val_group is '\('"):
        DataConfig(val_group="(")


def test_shares_that_leave_nothing_are_refused(tmp_path):
    root = make(tmp_path)
    with pytest.raises(ValueError, match=r"val_fraction is 1.0: wanted a fraction"):
        DataConfig(val_fraction=1.0)
    with pytest.raises(CocoError, match="leaves train or val without one"):
        names(root, val_fraction=0.5, val_group="png")
    assert len(names(root, val_fraction=0.001)) == 1


def test_data_with_a_val_split_are_refused(tmp_path):
    for split in ("train", "val"):
        data = content([(1, 20, 40)], [annotation(1, 1, (3, 4, 5, 6))])
        write(tmp_path / f"{split}.json", data)
    write(tmp_path / "images/1.png", encoded(picture(20, 40)))
    with pytest.raises(CocoError, match="data have the splits train, val: leave it out"):
        names(tmp_path, val_fraction=0.5)


def test_the_choice_is_written_beside_the_records(tmp_path):
    cache = tmp_path / "cache"
    config = DataConfig(
        root=str(make(tmp_path / "data")), cache_dir=str(cache), val_fraction=0.25, val_seed=3
    )
    dataset = open_dataset(config)
    (path,) = cache.glob(f"*/{SET_ASIDE}")
    written = json.loads(path.read_text())
    records = open_records(dataset.split("val"))
    held = [record["image/filename"].decode() for record in records]
    assert (written["val_fraction"], written["val_seed"]) == (0.25, 3)
    assert written["val_images"] == held
    assert any("set_aside: 5" in line for line in dataset.split("val").problems)
    # Another seed is another dataset, prepared next to this one.
    other = open_dataset(DataConfig(**{**vars(config), "val_seed": 4}))
    assert other.fingerprint != dataset.fingerprint
    assert len(list(cache.glob(f"*/{SET_ASIDE}"))) == 2


def test_checking_and_preparing_choose_the_same(tmp_path):
    config = DataConfig(
        root=str(make(tmp_path / "data")), cache_dir=str(tmp_path), val_fraction=0.25
    )
    found = check_dataset(config)
    assert found["val"].counts == {"set_aside": 5}
    assert not any(problems.fatal() for problems in found.values())
    dataset = open_dataset(config)
    ids = {image.id for image in splits_to_check(config)["val"].load().images}
    np.testing.assert_array_equal(dataset.split("val").index[:, 0], sorted(ids))


def test_label_maps_follow_their_images(tmp_path):
    for i in range(1, 9):
        write(tmp_path / f"train/{i}.png", encoded(picture(20, 40, i)))
        write(tmp_path / f"labels/train/{i}.png", encoded(np.full((20, 40), i % 3, np.uint8)))
    config = DataConfig(
        root=str(tmp_path),
        cache_dir=str(tmp_path / "cache"),
        semantic="folder",
        instances=False,
        val_fraction=0.25,
    )
    dataset = open_dataset(config)
    assert [len(dataset.split(name).index) for name in ("train", "val")] == [6, 2]
    for name in ("train", "val"):
        for image_id, labels in dataset.semantic_labels(name).items():
            assert (labels == image_id % 3).all()


def test_without_a_val_split_the_flag_is_named(tmp_path, capsys):
    root = make(tmp_path)
    assert cli.main(["check-data", str(root)]) == 1
    assert "or a part of train: --data.val-fraction=0.1" in capsys.readouterr().out
    assert cli.main(["check-data", str(root), "--val-fraction=0.1"]) == 0
    assert "val: " in capsys.readouterr().out
