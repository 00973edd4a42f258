"""Maps of many images written to files and read back."""

import json

import numpy as np
import pytest
from PIL import Image

from segjax.data.coco import CocoError, load_json
from segjax.data.images import decode_map
from segjax.data.labels.folder import read_label_names
from segjax.data.labels.panoptic import read_panoptic
from segjax.data.segments import PanopticCategory, Segment, ids_of
from segjax.results.files import MapWriter
from segjax.results.maps import PanopticMap, PanopticSegment, SemanticMap
from segjax.results.result import Result

CATEGORIES = (PanopticCategory(7, "dog", True), PanopticCategory(200, "sky", False))


def panoptic(shape, *segments):
    """A map of (id, category, score) below a row of void: one row each, the rest for the last."""
    ids = np.zeros(shape, np.int32)
    for row, (number, _, _) in enumerate(segments, start=1):
        ids[row:] = number
    areas = dict(zip(*np.unique(ids, return_counts=True), strict=True))
    found = tuple(PanopticSegment(n, c, int(areas[n]), score) for n, c, score in segments)
    return PanopticMap(ids, found, CATEGORIES)


def read_back(folder):
    """Returns the maps {image id: map} from `read_panoptic` and from the PNGs."""
    categories, entries = read_panoptic(folder / "panoptic.json")
    maps = {}
    for image_id, entry in entries.items():
        path = folder / "panoptic" / entry.file_name
        width, height = Image.open(path).size
        ids = ids_of(decode_map(path.read_bytes(), height, width, 3))
        columns = (entry.ids.tolist(), entry.category_ids.tolist(), entry.is_crowd.tolist())
        segments = [Segment(*row) for row in zip(*columns, strict=True)]
        maps[image_id] = PanopticMap.from_segments(ids, segments, categories)
    return maps


def test_panoptic_maps_are_read_back_as_they_were_written(tmp_path):
    dog, sky = CATEGORIES
    written = {
        3: panoptic((5, 4), (1, sky, None), (70_000, dog, 0.5), (2, dog, 0.25)),
        12: panoptic((1, 1)),  # a single pixel, with no segments
    }
    files = MapWriter(f"{tmp_path}/")
    files.add(Result((5, 4), panoptic=written[3]), 3, "three", "three.jpg")
    files.add(Result((1, 1), panoptic=written[12]), 12, "twelve")
    files.add(Result((1, 1)), 13, "nothing")
    assert files.close() == (tmp_path / "panoptic.json", tmp_path / "panoptic")
    found = read_back(tmp_path)
    assert found.keys() == written.keys()
    for image_id, given in written.items():
        np.testing.assert_array_equal(found[image_id].ids, given.ids)
        assert found[image_id].categories == given.categories
        assert found[image_id].to_segments()[1] == given.to_segments()[1]
    content = json.loads((tmp_path / "panoptic.json").read_text())
    assert content["images"] == [
        {"id": 3, "file_name": "three.jpg", "height": 5, "width": 4},
        {"id": 12, "height": 1, "width": 1},
    ]
    del content["images"]  # as in the results of other tools
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    assert read_back(tmp_path).keys() == written.keys()
    with pytest.raises(CocoError, match='has no list "images": is it COCO\'s instances format'):
        load_json(tmp_path / "panoptic.json")


@pytest.mark.parametrize("names", [(), ("sand", "sea")])
def test_semantic_maps_are_gray_pngs_and_their_names(tmp_path, names):
    labels = np.array([[0, 1, 255]], np.uint8)
    files = MapWriter(f"{tmp_path}/found_")
    files.add(Result((1, 3), semantic=SemanticMap(labels, names)), 1, "a")
    folder, listed = tmp_path / "found_semantic", tmp_path / "found_semantic.txt"
    assert files.close() == (folder, listed)[: 1 + bool(names)]
    np.testing.assert_array_equal(decode_map((folder / "a.png").read_bytes(), 1, 3, 1), labels)
    if names:
        assert read_label_names(listed) == names


def test_nothing_is_written_of_nothing(tmp_path):
    assert MapWriter(f"{tmp_path}/").close() == ()
    assert not list(tmp_path.iterdir())
