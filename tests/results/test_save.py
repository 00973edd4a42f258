"""Objects written to files of other programs and read back."""

import base64
import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segjax.data import rle
from segjax.data.coco import load_coco
from segjax.data.config import DataConfig
from segjax.data.pipeline import open_dataset
from segjax.results.detections import ImageDetections
from segjax.results.mask import Mask
from segjax.results.save import WRITERS, bridged, open_writers
from tests.support.map_samples import write
from tests.support.samples import encoded, picture

SIZE = (24, 32)
IMAGE = picture(*SIZE)


def masks():
    """A block, a ring with a hole and an object of two parts."""
    made = np.zeros((3, *SIZE), bool)
    made[0, 2:7, 3:12] = True
    made[1, 8:20, 4:16] = True
    made[1, 11:16, 8:12] = False
    made[2, 2:6, 20:25] = made[2, 12:18, 22:30] = True
    return made


def found(masked=True):
    boxes = [[3, 2, 12, 7], [4, 8, 16, 20], [20, 2, 30, 18]]
    return ImageDetections(
        boxes=np.float32(boxes),
        scores=np.float32([0.9, 0.8, 0.7]),
        classes=np.int32([0, 1, 0]),
        image_size=SIZE,
        class_names=("cat", "a/b"),
        mask_rles=tuple(map(rle.encode, masks())) if masked else None,
    )


@pytest.fixture
def written(tmp_path):
    writers = open_writers(tuple(WRITERS), tmp_path)
    for writer in writers:
        writer.add("photo.jpg", "photo", IMAGE, found())
    assert all(path.exists() for writer in writers for path in writer.close())
    return tmp_path


def test_masks_are_numbers_with_a_legend(written):
    ids = np.asarray(Image.open(written / "masks/photo.png"))
    assert ids.dtype == np.uint16
    for index, mask in enumerate(masks()):
        np.testing.assert_array_equal(ids == index + 1, mask)
    legend = json.loads((written / "masks/photo.json").read_text())
    assert legend["2"]["class"] == "a/b" and legend["3"]["name"] == "cat 2"


def test_crops_are_transparent_around_the_object(written):
    crop = np.asarray(Image.open(written / "crops/a_b/photo_2.png"))
    np.testing.assert_array_equal(crop[..., :3], IMAGE[8:20, 4:16])
    np.testing.assert_array_equal(crop[..., 3] > 0, masks()[1, 8:20, 4:16])
    assert len(list((written / "crops/cat").iterdir())) == 2


def test_the_table_has_every_object(written):
    rows = list(csv.DictReader(io.StringIO((written / "detections.csv").read_text())))
    assert [row["class"] for row in rows] == ["cat", "a/b", "cat"]
    assert [int(row["mask_pixels"]) for row in rows] == masks().sum((1, 2)).tolist()
    assert float(rows[2]["x1"]) == 30


def test_yolo_comes_back_with_holes_and_parts(written, tmp_path):
    """Read with our own reader of the format, on the same image."""
    root = tmp_path / "yolo"
    for split in ("train", "val"):
        write(root / f"images/{split}/photo.png", encoded(IMAGE))
        text = (written / "labels/photo.txt").read_text()
        write(root / f"labels/{split}/photo.txt", text.encode())
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, a/b]\n")
    dataset = open_dataset(DataConfig(root=str(root), cache_dir=str(tmp_path / "cache")))
    (objects,) = dataset.instances("train").images.values()
    back = [rle.decode({"size": list(SIZE), "counts": counts}) for counts in objects.masks]
    for mask, wanted in zip(back, masks(), strict=True):
        np.testing.assert_array_equal(mask, wanted)


@given(st.integers(0, 10**6))
def test_bridges_have_no_width(seed):
    rng = np.random.default_rng(seed)
    pixels = rng.random((4, 5)).round().astype(bool).repeat(3, 0).repeat(3, 1)
    path = bridged(Mask(rle.encode(pixels)))
    if not pixels.any():
        assert not len(path)
        return
    back = rle.from_polygons([path.ravel().tolist()], *pixels.shape)
    np.testing.assert_array_equal(rle.decode(back), pixels)


def test_labelme_has_polygons_and_masks(written):
    content = json.loads((written / "labelme/photo.json").read_text())
    kinds = [shape["shape_type"] for shape in content["shapes"]]
    assert kinds == ["polygon", "mask", "mask"]
    assert content["shapes"][0]["points"] == [[3, 2], [12, 2], [12, 7], [3, 7]]
    for shape, mask in zip(content["shapes"][1:], masks()[1:], strict=True):
        (x0, y0), (x1, y1) = np.int64(shape["points"])
        crop = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"]))))
        np.testing.assert_array_equal(crop > 0, mask[y0 : y1 + 1, x0 : x1 + 1])


def test_coco_can_be_trained_on(written, tmp_path):
    write(tmp_path / "images/photo.jpg", encoded(IMAGE, "JPEG"))
    dataset = load_coco(written / "coco.json", tmp_path / "images")
    assert not dataset.problems.fatal()
    assert [c.name for c in dataset.categories] == ["cat", "a/b"]
    (image,) = dataset.images
    back = [rle.decode({"size": list(SIZE), "counts": a.counts}) for a in image.annotations]
    np.testing.assert_array_equal(back, masks())


def test_boxes_alone_are_saved_as_boxes(tmp_path):
    for writer in open_writers(("crops", "csv", "yolo", "labelme", "coco"), tmp_path):
        writer.add("photo.jpg", "photo", IMAGE, found(masked=False))
        writer.close()
    first = (tmp_path / "labels/photo.txt").read_text().splitlines()[0].split()
    np.testing.assert_allclose(np.float64(first), [0, 7.5 / 32, 4.5 / 24, 9 / 32, 5 / 24])
    content = json.loads((tmp_path / "labelme/photo.json").read_text())
    assert content["shapes"][0]["shape_type"] == "rectangle"


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot save pdf: wanted some of masks, crops"):
        open_writers(("csv", "pdf"), tmp_path)
