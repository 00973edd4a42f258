"""All shared panoptic photographs: files, dataset, result, conversions, files again and scores."""

import numpy as np
import pytest

from segjax.data.config import DataConfig
from segjax.data.dataset import open_dataset
from segjax.data.images import decode_map
from segjax.data.labels.panoptic import read_panoptic
from segjax.data.segments import Segment, ids_of
from segjax.eval.mean_iou import MeanIou
from segjax.eval.panoptic_quality import PanopticQuality
from segjax.results.files import MapWriter
from segjax.results.maps import PanopticMap, SemanticMap
from segjax.results.result import Result
from tests.support.samples import SHARED

ROOT = SHARED / "coco_panoptic200"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    if not ROOT.exists():
        pytest.skip(f"{ROOT} is not on this machine")
    cache = tmp_path_factory.mktemp("cache")
    return open_dataset(DataConfig(root=str(ROOT), cache_dir=str(cache), semantic="panoptic"))


def written_and_read(result, image_id, folder):
    """Converts the panoptic map of a result to COCO's PNG and json and back: ids and segments."""
    files = MapWriter(f"{folder}/{image_id}_")
    files.add(result, image_id, "map")
    listed, pngs = files.close()
    _, entries = read_panoptic(listed)
    entry = entries[image_id]
    colours = decode_map((pngs / entry.file_name).read_bytes(), *result.image_size, 3)
    columns = (entry.ids.tolist(), entry.category_ids.tolist(), entry.is_crowd.tolist())
    return ids_of(colours), [Segment(*row) for row in zip(*columns, strict=True)]


def merged_things(found, categories):
    """A semantic map of all categories in a panoptic model's form, with all things as class 0."""
    things = np.array([category.is_thing for category in categories])
    table = np.full(256, 255, np.uint8)
    table[: len(things)] = np.where(things, 0, np.cumsum(~things))
    names = ("things", *(category.name for category in categories if not category.is_thing))
    return SemanticMap(table[found.labels], names)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "val"])
def test_the_truth_scores_100_whatever_way_it_goes(dataset, tmp_path, split):
    categories = dataset.panoptic_categories
    direct, parts = PanopticQuality(categories), PanopticQuality(categories)
    semantic = MeanIou(dataset.semantic_names)
    truth, labels = dataset.panoptic(split), dataset.semantic_labels(split)
    crowds = objects = 0
    for image_id, (ids, segments) in truth.items():
        whole = PanopticMap.from_segments(ids, segments, categories)
        result = Result(whole.image_size, panoptic=whole)
        direct.add(ids, segments, *written_and_read(result, image_id, tmp_path))
        found = result.panoptic_to_semantic()
        np.testing.assert_array_equal(found.labels, labels[image_id])
        semantic.add(labels[image_id], found.labels)
        # Split into the outputs of a model and merged again; only crowds are lost.
        pixels = merged_things(found, categories)
        apart = Result(whole.image_size, result.panoptic_to_instances(), pixels)
        again = apart.to_panoptic(categories, stuff_area=1)
        parts.add(ids, segments, *again.to_segments())
        crowded = sum(int((ids == s.id).sum()) for s in segments if s.is_crowd)
        assert again.dropped.other_pixels == int((ids == 0).sum()) + crowded
        crowds += sum(s.is_crowd for s in segments)
        objects += sum(apart.counts().values())
    assert crowds > 0 and objects > 600
    for total in (direct, parts):
        scores = total.results()
        assert scores.num_images == 100
        for mean in (scores.all, scores.things, scores.stuff):
            assert (mean.pq, mean.sq, mean.rq) == (1.0, 1.0, 1.0)
    assert set(semantic.results().metrics().values()) == {1.0}
