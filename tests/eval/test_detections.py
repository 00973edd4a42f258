import numpy as np
import pytest

from segjax.data import rle
from segjax.results.detections import ImageDetections


def _found():
    masks = np.zeros((2, 9, 11), bool)
    masks[0, 1:5, 2:7] = True
    masks[1, 6:, 8:] = True
    return masks, ImageDetections(
        boxes=np.array([[2, 1, 7, 5], [8, 6, 11, 9]], np.float32),
        scores=np.array([0.75, 0.25], np.float32),
        classes=np.array([1, 0], np.int32),
        image_size=(9, 11),
        class_names=("cat", "dog"),
        mask_rles=tuple(rle.encode(mask) for mask in masks),
    )


def test_masks_are_decoded_on_demand():
    masks, found = _found()
    np.testing.assert_array_equal(found.mask(1), masks[1])
    np.testing.assert_array_equal(found.masks, masks)
    assert found.masks is found.masks
    assert found.names == ["dog", "cat"]
    assert len(found) == 2


def test_objects_can_be_chosen():
    masks, found = _found()
    assert len(found.above(0.75)) == 0
    best = found.above(0.5)
    assert best.names == ["dog"]
    np.testing.assert_array_equal(best.masks, masks[:1])


def test_there_and_back_through_coco():
    masks, found = _found()
    entries = found.to_coco(42, category_ids=(3, 90))
    assert [e["category_id"] for e in entries] == [90, 3]
    assert entries[0]["bbox"] == [2.0, 1.0, 5.0, 4.0]
    assert entries[1]["score"] == 0.25
    assert {e["image_id"] for e in entries} == {42}
    back = ImageDetections.from_coco(entries, (9, 11), (3, 90), ("cat", "dog"))
    np.testing.assert_array_equal(back.boxes, found.boxes)
    np.testing.assert_array_equal(back.scores, found.scores)
    np.testing.assert_array_equal(back.classes, found.classes)
    np.testing.assert_array_equal(back.masks, masks)


def test_ground_truth_has_no_scores():
    polygon = [1.0, 1.0, 6.0, 1.0, 6.0, 6.0, 1.0, 6.0]
    annotation = {"category_id": 3, "bbox": [1, 1, 5, 5], "segmentation": [polygon]}
    truth = ImageDetections.from_coco([annotation], (9, 11), (3,))
    assert truth.scores is None
    assert truth.above(0.9) is truth
    assert truth.masks is not None
    assert truth.masks.sum() == 25
    assert truth.names == ["0"]
    assert truth.to_coco(1, (3,))[0]["score"] == 1.0


def test_nothing_at_all():
    nothing = ImageDetections.from_coco([], (9, 11), (3,))
    assert len(nothing) == 0
    assert nothing.to_coco(1, (3,)) == []
    assert nothing.masks is None
    with pytest.raises(ValueError, match="no masks"):
        nothing.mask(0)


def test_unknown_categories_are_refused():
    with pytest.raises(ValueError, match=r"category ids \[7\] are not among \[3\]"):
        ImageDetections.from_coco([{"category_id": 7, "bbox": [0, 0, 1, 1]}], (9, 11), (3,))
