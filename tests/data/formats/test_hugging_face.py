"""Hugging Face datasets on disk; without the package, what to install."""

import sys

import numpy as np
import pytest

from segjax import cli
from segjax.data.coco import CocoError
from segjax.data.config import DataConfig
from segjax.data.formats import open_source
from tests.support.format_samples import HEIGHT, WIDTH, assert_objects, load, rectangle, ring
from tests.support.samples import encoded, picture

SQUARE = [2.0, 4.0, 12.0, 4.0, 12.0, 9.0, 2.0, 9.0]


@pytest.fixture
def datasets():
    return pytest.importorskip("datasets")


def save(datasets, root, rows, objects, splits=("train", "validation")):
    """Saves a table with an image and "objects" in each row, once for each split."""
    features = {"image": datasets.Image(), "objects": objects}
    table = {
        "image": [
            {"bytes": encoded(picture(HEIGHT, WIDTH, i)), "path": None} for i in range(len(rows))
        ],
        "objects": rows,
    }
    made = datasets.Dataset.from_dict(table, features=datasets.Features(features))
    datasets.DatasetDict(dict.fromkeys(splits, made)).save_to_disk(str(root))


def fields(datasets, **more):
    names = datasets.ClassLabel(names=["owl", "cat"])
    box = datasets.Sequence(datasets.Value("float32"))
    return {"bbox": box, "category": names, **more}


def test_objects_of_lists_with_polygons(datasets, tmp_path):
    polygons = datasets.Sequence(datasets.Sequence(datasets.Value("float32")))
    listed = {k: datasets.Sequence(v) for k, v in fields(datasets, segmentation=polygons).items()}
    row = {
        "bbox": [[2, 4, 10, 5], [1, 2, 3, 4]],
        "category": [1, 0],
        "segmentation": [[SQUARE], []],
    }
    nothing = {"bbox": [], "category": [], "segmentation": []}
    save(datasets, tmp_path / "d", [row, nothing], listed)
    for split in ("train", "val"):
        found, problems = load(tmp_path / "d", split)
        wanted = [("cat", rectangle(2, 4, 12, 9)), ("owl", None, (1, 2, 3, 4))]
        assert_objects(found["00000000.png"], wanted)
        assert found["00000001.png"] == []
        assert problems.counts == {"missing_segmentation": 1, "image_without_objects": 1}


def test_lists_of_objects_and_texts_as_classes(datasets, tmp_path):
    kinds = [fields(datasets) | {"category": datasets.Value("string")}]
    save(datasets, tmp_path / "d", [[{"bbox": [1, 2, 3, 4], "category": "elk"}]], kinds)
    assert_objects(load(tmp_path / "d")[0]["00000000.png"], [("elk", None, (1, 2, 3, 4))])


def test_run_lengths_are_masks(datasets, tmp_path):
    from segjax.data import rle

    counts = rle.encode(ring())["counts"]
    mask = {"size": datasets.Sequence(datasets.Value("int32")), "counts": datasets.Value("string")}
    row = [{"bbox": [5, 3, 25, 9], "category": 1, "mask": {"size": [20, 40], "counts": counts}}]
    save(datasets, tmp_path / "d", [row], [fields(datasets, mask=mask)])
    assert_objects(load(tmp_path / "d")[0]["00000000.png"], [("cat", ring())])


def test_maps_of_classes_and_numbers(datasets, tmp_path):
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[..., 0] = 9  # a class of pixels that are of no object
    pixels[ring()] = (3, 1, 0)
    pixels[rectangle(32, 2, 38, 8)] = (3, 2, 0)
    features = datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()})
    cells = [{"bytes": encoded(p), "path": None} for p in (picture(HEIGHT, WIDTH), pixels)]
    table = {"image": cells[:1], "annotation": cells[1:]}
    made = datasets.Dataset.from_dict(table, features=features)
    made = made.add_column("semantic_class_to_id", ['{"wall": 9, "owl": 3}'])
    made.save_to_disk(str(tmp_path / "d"))
    found, _ = load(tmp_path / "d")
    wanted = [("owl", ring()), ("owl", rectangle(32, 2, 38, 8))]
    assert_objects(found["00000000.png"], wanted)


def test_it_is_recognised_and_converted(datasets, tmp_path, capsys):
    objects = [
        fields(
            datasets, segmentation=datasets.Sequence(datasets.Sequence(datasets.Value("float32")))
        )
    ]
    row = [{"bbox": [2, 4, 10, 5], "category": 1, "segmentation": [SQUARE]}]
    save(datasets, tmp_path / "d", [row, row], objects)
    before = open_source(DataConfig(root=str(tmp_path / "d"))).fingerprint()
    assert before == open_source(DataConfig(root=str(tmp_path / "d"))).fingerprint()
    assert cli.main(["convert-data", str(tmp_path / "d"), "--out", str(tmp_path / "coco")]) == 0
    assert (
        "dataset_dict.json: Hugging Face datasets, 2 classes, 4 images" in capsys.readouterr().out
    )
    for split in ("train", "val"):
        ours = load(tmp_path / "coco", split)[0]
        assert_objects(ours["00000001.png"], [("cat", rectangle(2, 4, 12, 9))])
    save(datasets, tmp_path / "e", [row], objects)
    assert open_source(DataConfig(root=str(tmp_path / "e"))).fingerprint() != before


def test_a_table_by_name_is_loaded_by_the_package(datasets, tmp_path, monkeypatch):
    # The hub itself is not asked here: a folder of Parquet goes through the same function.
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    save(datasets, tmp_path / "d", [[{"bbox": [1, 2, 3, 4], "category": 1}]], [fields(datasets)])
    table = datasets.load_from_disk(str(tmp_path / "d"))["train"]
    table.to_parquet(str(folder / "train-00000-of-00001.parquet"))
    found, _ = load(folder, name="huggingface")
    assert_objects(found["00000000.png"], [("cat", None, (1, 2, 3, 4))])


@pytest.mark.parametrize(
    ("bad", "kind", "words"),
    [
        ({"bbox": [1, 2, 3], "category": 1}, "bad_object", "wanted x, y, width, height"),
        ({"bbox": [1, 2, 3, 4], "category": None}, "bad_object", "its class is None"),
        ({"bbox": [90, 2, 3, 4], "category": 1}, "bbox_off_image", "90.0, 2.0"),
    ],
)
def test_defects_are_named_and_counted(datasets, tmp_path, bad, kind, words):
    good = {"bbox": [1, 2, 3, 4], "category": 0}
    save(datasets, tmp_path / "d", [[bad, good]], [fields(datasets)])
    with pytest.raises(CocoError, match=f"{kind}: 1; first: .*{words}"):
        load(tmp_path / "d")
    found, problems = load(tmp_path / "d", on_problem="collect")
    assert_objects(found["00000000.png"], [("owl", None, (1, 2, 3, 4))])
    assert problems.fatal() == {kind: 1}


def test_other_columns_and_splits_are_named(datasets, tmp_path):
    save(datasets, tmp_path / "d", [[]], [fields(datasets)], splits=("spring", "autumn"))
    with pytest.raises(CocoError, match="has the splits spring, autumn: wanted some of train, val"):
        load(tmp_path / "d")
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "t"))
    with pytest.raises(CocoError, match="has the columns text: none has images"):
        load(tmp_path / "t")


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "dataset_dict.json").write_text("{}")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'segjax\[datasets\]'"):
        load(tmp_path)
