"""COCO's panoptic format: ids encoded as colours, and the entries of the json."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segjax.data.images import decode_map
from segjax.data.segments import PanopticCategory, Segment
from segjax.results.maps import PanopticMap, PanopticSegment
from segjax.results.panoptic_png import HIGHEST_ID, annotation, decode_ids, encode_ids, encode_png
from tests.support.samples import SHARED

IDS = hnp.arrays(
    np.int32, st.tuples(st.integers(1, 4), st.integers(1, 4)), elements=st.integers(0, HIGHEST_ID)
)
COCO = SHARED / "coco_panoptic200"


@given(IDS)
def test_ids_survive(ids):
    rgb = encode_ids(ids)
    for y, x in np.ndindex(ids.shape):
        red, green, blue = (int(value) for value in rgb[y, x])
        assert red + 256 * green + 256**2 * blue == ids[y, x]
    np.testing.assert_array_equal(decode_ids(rgb), ids)
    read = decode_map(encode_png(ids), *ids.shape, 3)
    np.testing.assert_array_equal(decode_ids(read), ids)


@pytest.mark.parametrize("wrong", [-1, HIGHEST_ID + 1])
def test_ids_that_a_png_cannot_hold(wrong):
    with pytest.raises(ValueError, match=f"ids run from .*{wrong}.*holds 0..16777215"):
        encode_ids(np.array([[5, wrong]], np.int64))


def test_the_entry_says_all():
    dog, sky = PanopticCategory(18, "dog", True), PanopticCategory(187, "sky", False)
    ids = np.zeros((4, 6), np.int32)
    ids[:2] = 3
    ids[1:3, 2:5] = 70_000
    segments = (PanopticSegment(3, sky, 9), PanopticSegment(70_000, dog, 6, score=0.5))
    entry = annotation(PanopticMap(ids, segments, (dog, sky)), 42, "42.png")
    assert json.loads(json.dumps(entry)) == {
        "image_id": 42,
        "file_name": "42.png",
        "segments_info": [
            {"id": 3, "category_id": 187, "area": 9, "bbox": [0, 0, 6, 2], "iscrowd": 0},
            {
                "id": 70_000,
                "category_id": 18,
                "area": 6,
                "bbox": [2, 1, 3, 2],
                "iscrowd": 0,
                "score": 0.5,
            },
        ],
    }


def test_nothing_in_the_picture():
    empty = PanopticMap(np.zeros((2, 3), np.int32), (), ())
    assert annotation(empty, 1, "1.png")["segments_info"] == []
    assert not encode_ids(empty.ids).any()


@pytest.mark.skipif(not COCO.exists(), reason="needs COCO's panoptic pictures in ../shared")
def test_cocos_own_entries_come_back():
    content = json.loads((COCO / "annotations" / "panoptic_val.json").read_text())
    categories = [
        PanopticCategory(c["id"], c["name"], bool(c["isthing"])) for c in content["categories"]
    ]
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for given_entry in content["annotations"][:5]:
        data = Path(COCO / "panoptic_val" / given_entry["file_name"]).read_bytes()
        ids = decode_ids(decode_map(data, *sizes[given_entry["image_id"]], 3))
        segments = [
            Segment(s["id"], s["category_id"], bool(s["iscrowd"]))
            for s in given_entry["segments_info"]
        ]
        read = PanopticMap.from_segments(ids, segments, categories)
        entry = annotation(read, given_entry["image_id"], given_entry["file_name"])
        assert entry == given_entry
