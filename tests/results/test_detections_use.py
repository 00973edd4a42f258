"""Everyday use of objects: printing, indexing, iterating, conversion to supervision."""

import numpy as np
import pytest

from segjax.data import rle
from segjax.results.detections import ImageDetections
from segjax.results.result import Result


@pytest.fixture
def found():
    masks = np.zeros((3, 10, 20), bool)
    masks[0, 2:5, 3:9] = masks[1, 6:9, 3:9] = masks[2, 0:2, 10:20] = True
    return ImageDetections(
        boxes=np.float32([[3, 2, 9, 5], [3, 6, 9, 9], [10, 0, 20, 2]]),
        scores=np.float32([0.9, 0.8, 0.7]),
        classes=np.int32([0, 1, 0]),
        image_size=(10, 20),
        class_names=("cat", "dog"),
        mask_rles=tuple(map(rle.encode, masks)),
    )


def test_print_is_a_table(found):
    assert str(found).splitlines() == [
        "3 objects in 10 x 20 pixels",
        "   name   score    x0   y0    x1   y1  area",
        "0  cat 1  0.900   3.0  2.0   9.0  5.0    18",
        "1  dog 1  0.800   3.0  6.0   9.0  9.0    18",
        "2  cat 2  0.700  10.0  0.0  20.0  2.0    20",
    ]
    many = found[np.zeros(40, int)]
    assert str(many).splitlines()[-1] == "... and 10 more"
    assert "0 objects" in str(found[:0])


def test_objects_are_iterated_and_indexed(found):
    assert [one.name for one in found] == ["cat 1", "dog 1", "cat 2"]
    assert (found[1].class_name, found[-1].mask.area) == ("dog", 20)
    assert found[1:].names == ["dog", "cat"]
    assert found[found.scores > 0.75].names == ["cat", "dog"]
    assert found[[2, 0]].scores.tolist() == found.scores[[2, 0]].tolist()
    with pytest.raises(IndexError):
        found[3]


def test_supervision_gets_all_of_it(found):
    pytest.importorskip("supervision")
    theirs = found.to_supervision()
    np.testing.assert_array_equal(theirs.xyxy, found.boxes)
    np.testing.assert_array_equal(theirs.mask, found.masks)
    np.testing.assert_array_equal(theirs.confidence, found.scores)
    assert theirs.class_id.tolist() == [0, 1, 0]
    assert theirs.data["class_name"].tolist() == ["cat", "dog", "cat"]
    assert len(Result((10, 20), instances=found).to_supervision()) == 3
    assert len(found[:0].to_supervision()) == 0


def test_without_supervision_it_says_what_to_install(found, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(ModuleNotFoundError, match="pip install supervision"):
        found.to_supervision()
