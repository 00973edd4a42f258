"""COCO jsons of any name, with images anywhere near them."""

import json

import pytest

from segjax.data.coco import CocoError
from tests.support.format_samples import load
from tests.support.map_samples import write
from tests.support.samples import annotation, content, encoded, picture


def make(root, json_name, image_form, numbers=(1, 2)):
    data = content([(i, 20, 40) for i in numbers], [annotation(1, numbers[0], (3, 4, 5, 6))])
    write(root / json_name, data)
    for number in numbers:
        write(root / image_form.format(number), encoded(picture(20, 40, number)))
    return root


@pytest.mark.parametrize(
    ("json_name", "image_form"),
    [
        ("result.json", "images/{}.png"),
        ("labels.json", "data/{}.png"),
        ("coco.json", "{}.png"),
        ("_annotations.coco.json", "{}.png"),
        ("annotations/instances_default.json", "images/{}.png"),
        ("annotations/instances_default.json", "images/default/{}.png"),
        ("annotations/export.json", "annotations/{}.png"),
    ],
)
def test_one_json_is_train(tmp_path, json_name, image_form):
    make(tmp_path, json_name, image_form)
    # Other folders, and jsons that are no annotations, do not matter.
    for name in ("train_images", "images"):
        (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / "config.json").write_text("{}")
    found, problems = load(tmp_path)
    assert {name: len(objects) for name, objects in found.items()} == {"1.png": 1, "2.png": 0}
    assert problems.fatal() == {}
    assert load(tmp_path / json_name)[0].keys() == found.keys()


@pytest.mark.parametrize("form", ["{}.json", "annotations/{}.json", "instances_{}_v2.json"])
def test_jsons_with_the_names_of_splits_are_splits(tmp_path, form):
    for number, split in enumerate(("train", "val", "test"), 1):
        make(tmp_path, form.format(split), f"images/{split}/{{}}.png", (number,))
    assert [list(load(tmp_path, split)[0]) for split in ("train", "val", "test")] == [
        ["1.png"],
        ["2.png"],
        ["3.png"],
    ]


def test_several_jsons_of_other_names_are_not_guessed_at(tmp_path):
    for name in ("a.json", "b.json"):
        make(tmp_path, name, "images/{}.png")
    with pytest.raises(CocoError, match=r"holds a\.json, b\.json: name .*--data.train-json"):
        load(tmp_path)
    assert len(load(tmp_path / "a.json")[0]) == 2


def test_images_elsewhere_are_named_by_a_flag(tmp_path):
    make(tmp_path / "labels", "a.json", "../elsewhere/{}.png")
    with pytest.raises(CocoError, match=r"such as 1\.png, 2\.png, are not in .*--data.image-root"):
        load(tmp_path / "labels")
    assert len(load(tmp_path / "labels", image_root=str(tmp_path / "elsewhere"))[0]) == 2


def test_names_that_lead_out_find_no_folder(tmp_path):
    root = make(tmp_path / "data", "a.json", "images/{}.png")
    data = json.loads((root / "a.json").read_text())
    write(tmp_path / "secret.png", encoded(picture(20, 40)))
    data["images"][0]["file_name"] = "../../secret.png"
    write(root / "a.json", data)
    _, problems = load(root, on_problem="collect")
    assert problems.fatal() == {"bad_file_name": 1}
