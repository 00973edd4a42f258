"""Data of any format written as a COCO folder that pycocotools reads alike."""

import json
import os

import numpy as np
import pytest
from pycocotools.coco import COCO

from segjax import cli
from segjax.data import export
from segjax.data.coco import CocoError
from segjax.data.config import DataConfig
from segjax.data.export import write_coco
from segjax.data.formats import FORMATS
from tests.data.formats import test_cvat as cvat
from tests.data.formats import test_id_masks as id_masks
from tests.data.formats import test_label_studio as label_studio
from tests.data.formats import test_labelme as labelme
from tests.data.formats import test_voc as voc
from tests.support.format_samples import assert_objects, load, rectangle, ring, write_image
from tests.support.map_samples import write

BLOCK = rectangle(2, 4, 12, 9)


def make_labelme(root):
    write_image(root / "a.png")
    shapes = [labelme.ring_shape("cat"), labelme.shape("dog", [[2, 4], [12, 4], [12, 9], [2, 9]])]
    labelme.write_json(root / "a.json", shapes)


def make_cvat(root):
    cvat.make(root, cvat.mask("cat"), cvat.POLYGON)


def make_label_studio(root):
    brush = label_studio.region("brush", "cat", "b", rle=label_studio.RING)
    label_studio.make(root, label_studio.task(brush, label_studio.polygon()))


def make_voc(root):
    ids = np.where(ring(), 1, np.where(rectangle(2, 14, 9, 19), 2, 0)).astype(np.uint8)
    voc.make(root, ids, ids)
    (root / "class_names.txt").write_text("_background_\ncat\ndog\n")


def make_masks(root):
    write_image(root / "images/a.png")
    ids = np.where(ring(), 1000, np.where(rectangle(2, 14, 9, 19), 2000, 0)).astype(np.uint16)
    id_masks.save(root / "masks/a.png", ids)
    (root / "classes.txt").write_text("cat\ndog\n")


LOW = rectangle(2, 14, 9, 19)
MAKERS = {
    "labelme": (make_labelme, BLOCK),
    "cvat": (make_cvat, BLOCK),
    "labelstudio": (make_label_studio, BLOCK),
    "voc": (make_voc, LOW),
    "masks": (make_masks, LOW),
}


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_written_is_what_was_read(tmp_path, capsys, name):
    make, second = MAKERS[name]
    make(tmp_path / "data")
    out = tmp_path / "coco"
    assert cli.main(["convert-data", str(tmp_path / "data"), "--out", str(out)]) == 0
    words = FORMATS[name].recognises(tmp_path / "data")
    assert f"{words}, 2 classes, 1 image, 2 objects\n" in capsys.readouterr().out
    ((file_name, objects),) = load(out)[0].items()
    assert_objects(sorted(objects, key=lambda one: one[0]), [("cat", ring()), ("dog", second)])
    found = COCO(out / "annotations/instances_train.json")
    masks = {found.cats[a["category_id"]]["name"]: found.annToMask(a) for a in found.anns.values()}
    np.testing.assert_array_equal(masks["cat"], ring())
    np.testing.assert_array_equal(masks["dog"], second)
    (image,) = found.imgs.values()
    source = (tmp_path / "data").rglob(os.path.basename(file_name))
    assert (out / "train" / image["file_name"]).read_bytes() == next(source).read_bytes()
    assert cli.main(["check-data", str(out)]) == 1  # there is no val
    assert "ERROR missing_split: 1" in (said := capsys.readouterr().out)
    assert said.count("ERROR") == 1


def test_one_file_is_converted_and_the_format_can_be_named(tmp_path, capsys):
    make_label_studio(tmp_path / "data")
    source = str(tmp_path / "data/project-1.json")
    out = ["--out", str(tmp_path / "coco")]
    assert cli.main(["convert-data", source, "--from", "cvat", *out]) == 1
    assert 'no file of "CVAT for images"' in capsys.readouterr().err
    assert cli.main(["convert-data", source, "--from", "labelstudio", *out]) == 0
    assert "project-1.json: Label Studio, 2 classes" in capsys.readouterr().out


def test_val_is_set_aside_while_converting(tmp_path, capsys):
    root = tmp_path / "data"
    for i in range(10):
        write_image(root / f"{i}.png", i)
        shapes = [labelme.shape("dog", [[2, 4], [12, 4], [12, 9], [2, 9]])]
        labelme.write_json(root / f"{i}.json", shapes, f"{i}.png")
    flags = ["--val-fraction=0.3", "--seed=1", "--link"]
    assert cli.main(["convert-data", str(root), "--out", str(tmp_path / "coco"), *flags]) == 0
    said = capsys.readouterr().out
    assert "instances_val.json: 3 images, 3 objects" in said
    assert "to be read with --data.follow-links=True" in said
    written = {
        split: set(load(tmp_path / "coco", split, follow_links=True)[0])
        for split in ("train", "val")
    }
    direct = {
        split: set(load(root, split, val_fraction=0.3, val_seed=1)[0]) for split in ("train", "val")
    }
    assert written == direct
    assert cli.main(["check-data", str(tmp_path / "coco"), "--follow-links"]) == 0


def test_what_cannot_be_read_is_left_out_and_counted(tmp_path, capsys):
    root = tmp_path / "data"
    make_labelme(root)
    write(root / "b.png", (root / "a.png").read_bytes()[:-40])
    labelme.write_json(root / "b.json", [labelme.ring_shape("cat")], "b.png")
    labelme.write_json(root / "c.json", [labelme.ring_shape("cat")], "lost.png")
    assert cli.main(["convert-data", str(root), "--out", str(tmp_path / "coco")]) == 1
    said = capsys.readouterr().out
    assert "1 image, 2 objects" in said and "entries with an ERROR were left out" in said
    assert "ERROR bad_image: 1" in said and "ERROR missing_file: 1" in said
    assert list(load(tmp_path / "coco")[0]) == ["a.png"]


def test_data_without_a_usable_image_are_refused(tmp_path):
    labelme.write_json(tmp_path / "data/c.json", [labelme.ring_shape("cat")], "lost.png")
    with pytest.raises(CocoError, match=r"no image that can be used:\nERROR missing_file: 1"):
        write_coco(DataConfig(root=str(tmp_path / "data")), tmp_path / "coco")
    assert not (tmp_path / "coco").exists()


def test_a_folder_that_is_not_finished_does_not_stay(tmp_path, monkeypatch):
    make_labelme(tmp_path / "data")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.shutil, "copy2", full)
    with pytest.raises(OSError, match="No space left"):
        write_coco(DataConfig(root=str(tmp_path / "data")), tmp_path / "coco")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_folder_that_holds_something_stays_as_it_is(tmp_path):
    make_labelme(tmp_path / "data")
    (tmp_path / "coco").mkdir()
    write_coco(DataConfig(root=str(tmp_path / "data")), tmp_path / "coco")  # an empty one is taken
    before = json.loads((tmp_path / "coco/annotations/instances_train.json").read_text())
    with pytest.raises(FileExistsError, match="is not empty: give a new folder"):
        write_coco(DataConfig(root=str(tmp_path / "data")), tmp_path / "coco")
    after = json.loads((tmp_path / "coco/annotations/instances_train.json").read_text())
    assert before == after


def test_boxes_without_masks_are_counted(tmp_path, capsys):
    write_image(tmp_path / "data/a.png")
    shapes = [labelme.ring_shape("cat"), labelme.shape("dog", [[2, 4], [12, 9]], "rectangle")]
    labelme.write_json(tmp_path / "data/a.json", shapes)
    assert cli.main(["convert-data", str(tmp_path / "data"), "--out", str(tmp_path / "coco")]) == 0
    assert "1 image, 2 objects, 1 of them without a mask" in capsys.readouterr().out
