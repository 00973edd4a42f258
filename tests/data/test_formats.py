"""Custom formats and labels need one class and one table row each."""

import dataclasses

import numpy as np
import pytest

from segjax import cli
from segjax.data.coco import Annotation, Category, CocoDataset, ImageRecord
from segjax.data.config import DataConfig
from segjax.data.formats import FORMATS
from segjax.data.hashing import hash_splits
from segjax.data.labels import LABELS
from segjax.data.labels.base import LabelFiles, Labels, find_first
from segjax.data.pipeline import eval_iterator, open_dataset, train_iterator
from segjax.data.problems import Problems
from segjax.data.protocols import Source, Split
from segjax.data.store import FolderStore
from tests.support.samples import encoded, picture


@dataclasses.dataclass(frozen=True)
class Lists:
    """Folders of images and one text file per split, with file, class and box on each line."""

    root: str

    @classmethod
    def of(cls, config):
        return cls(config.root)

    def fingerprint(self):
        return hash_splits(self.splits(None))

    def splits(self, workspace):
        return {name: self._split(name) for name in ("train", "val")}

    def _split(self, name):
        path = FolderStore(self.root).root / f"{name}.txt"
        images = FolderStore(path.with_suffix(""))
        return Split(images, lambda on_problem="raise": read(path), files=(path,))


def read(path):
    names, images, problems = {}, {}, Problems()
    for number, line in enumerate(path.read_text().splitlines(), 1):
        file, name, *box = line.split()
        x, y, w, h = map(float, box)
        category = names.setdefault(name, len(names) + 1)
        one = Annotation(number, category, (x, y, w, h), w * h, False, "")
        images.setdefault(file, []).append(one)
    categories = tuple(Category(number, name) for name, number in names.items())
    records = (
        ImageRecord(number, file, 20, 30, tuple(objects))
        for number, (file, objects) in enumerate(images.items(), 1)
    )
    return CocoDataset(categories, tuple(records), problems)


@pytest.fixture
def lists(tmp_path, monkeypatch):
    """Writes a folder in the `Lists` format and registers the format."""
    monkeypatch.setitem(FORMATS, "lists", Lists)
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        lines = ["a.png cat 1.5 2 8 9", "b.png dog 3 4 20 10", "a.png dog 11 5 6 6"]
        (tmp_path / f"{split}.txt").write_text("\n".join(lines))
        for seed, name in enumerate(("a.png", "b.png")):
            (tmp_path / split / name).write_bytes(encoded(picture(20, 30, seed)))
    return DataConfig(
        name="lists",
        root=str(tmp_path),
        cache_dir=str(tmp_path / "cache"),
        resize="none",
        masks=False,
        batch_size=2,
        eval_batch_size=2,
        max_instances=3,
        flip=False,
    )


def test_another_format_is_a_class_and_a_row(lists, tmp_path, capsys):
    assert issubclass(Lists, Source)
    dataset = open_dataset(lists)
    assert dataset.class_names == ("cat", "dog")
    with train_iterator(dataset, lists, seed=0) as batches:
        batch = next(batches)
    (row,) = np.flatnonzero(batch["image_ids"] == 1)
    np.testing.assert_array_equal(batch["images"][row, :20, :30], picture(20, 30, 0))
    boxes = batch["gt_boxes"][row][batch["gt_valid"][row]]
    np.testing.assert_array_equal(boxes, [[1.5, 2, 9.5, 11], [11, 5, 17, 11]])
    (batch,) = eval_iterator(dataset, "val", lists)
    assert sorted(batch["image_ids"]) == [1, 2]
    assert dataset.instances("val").images[2].boxes.tolist() == [[3, 4, 20, 10]]
    # Changes are detected, and the command line knows the format.
    (tmp_path / "val.txt").write_text("a.png cat 1 2 3 4\nb.png dog 3 4 20 11")
    assert open_dataset(lists).fingerprint != dataset.fingerprint
    assert cli.main(["check-data", str(tmp_path), "--format=lists", "--no-masks"]) == 0
    assert "val.txt\nno defects" in capsys.readouterr().out


def test_another_format_takes_labels_that_lie_apart(lists, tmp_path):
    for split in ("train", "val"):
        (tmp_path / "labels" / split).mkdir(parents=True)
        for name in ("a.png", "b.png"):
            labels = np.full((20, 30), 1 + (name == "b.png"), np.uint8)
            (tmp_path / "labels" / split / name).write_bytes(encoded(labels))
    config = dataclasses.replace(
        lists, semantic="folder", semantic_root=str(tmp_path / "labels"), masks=False
    )
    dataset = open_dataset(config)
    assert dataset.semantic_names == ("0", "1", "2")
    assert set(np.unique(dataset.semantic_labels("val")[2])) == {2}
    with pytest.raises(ValueError, match="labels of train, val: this format of data has none"):
        open_dataset(dataclasses.replace(config, semantic_root=""))


class Halves:
    """Labels read from text files that hold the column where the left half ends."""

    title = "two halves"
    hint = "reads a file a split in halves/"
    has_files = True
    needs_objects = False
    knows_things = False
    has_segments = False

    def find(self, base, split, *, apart):
        path = find_first(base, ("halves/{}.txt",), split, lambda path: path.is_file())
        return LabelFiles(FolderStore(path.parent), path)

    def archive(self, base_url):
        return None

    def open(self, categories, files, splits, ignore):
        readers = {name: HalfReader(int(f.annotations.read_text())) for name, f in files.items()}
        return Labels(("left", "right"), readers)


@dataclasses.dataclass(frozen=True)
class HalfReader:
    column: int

    def read(self, image):
        labels = np.zeros((image.height, image.width), np.uint8)
        labels[:, self.column :] = 1
        return labels


def test_another_kind_of_labels_is_a_class_and_a_row(lists, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(LABELS, "halves", Halves())
    (tmp_path / "halves").mkdir()
    for split in ("train", "val"):
        (tmp_path / "halves" / f"{split}.txt").write_text("12")
    # Images and labels suffice: the folder format needs no annotation file here.
    config = dataclasses.replace(lists, name="folder", semantic="halves", instances=False)
    dataset = open_dataset(config)
    assert dataset.semantic_names == ("left", "right")
    with train_iterator(dataset, config, seed=0) as batches:
        labels = next(batches)["gt_semantic"]
    assert (labels[:, :20, :12] == 0).all() and (labels[:, :20, 12:30] == 1).all()
    assert cli.main(["check-data", str(tmp_path), "--semantic=halves"]) == 0
    assert "images without annotations" in capsys.readouterr().out
    with pytest.raises(ValueError, match="which two halves do not say"):
        dataclasses.replace(config, merge_things="first")
    (tmp_path / "halves" / "val.txt").unlink()
    with pytest.raises(
        ValueError, match=r'halves/val\.txt.*semantic="halves" reads a file a split'
    ):
        open_dataset(config)


@pytest.mark.parametrize(
    ("field", "known"),
    [
        ("name", "'folder', '2017', 'shapes'"),
        ("semantic", "'none', 'stuffthingmaps', 'panoptic', 'folder', 'instances'"),
    ],
)
def test_unknown_names_list_the_known_ones(field, known):
    with pytest.raises(ValueError, match=f'{field} is "coco": wanted one of {known}'):
        DataConfig(**{field: "coco"})


def test_only_data_on_disk_can_be_checked(capsys):
    assert cli.main(["check-data", "", "--format=2017"]) == 1
    assert "only data on disk can be checked beforehand" in capsys.readouterr().err
    assert cli.main(["check-data", "", "--format=mat"]) == 1
    assert "wanted one of 'folder', '2017', 'shapes'" in capsys.readouterr().err
