"""Evaluation of models that predict semantic and panoptic maps."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from segjax.data.dataset import open_dataset
from segjax.eval.map_scores import MapScores
from segjax.eval.runner import Evaluator, evaluate
from segjax.figure_ground.refine import MaskRefinement
from segjax.models import PanopticMerge
from segjax.predict.predictor import Predictor
from segjax.protocols import ClassCounts
from segjax.results.classes import Classes
from segjax.results.maps import PanopticMap, SemanticMap
from segjax.results.result import Result
from tests.support import fakes, knowing


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("grounds")


@pytest.fixture(scope="module")
def opened(folder):
    config = knowing.data_config(folder)
    return config, open_dataset(config)


def panoptic(dataset, things=0):
    merge = PanopticMerge(stuff_area=1, things=things)
    return knowing.KnowingModel(4, len(dataset.semantic_names), merge)


@pytest.mark.parametrize(("merged", "things"), [("first", 0), ("last", -1)])
def test_a_panoptic_model_that_knows_the_truth_scores_one(folder, tmp_path, merged, things):
    config = knowing.data_config(folder, merge_things=merged)
    dataset = open_dataset(config)
    model, variables = panoptic(dataset, things), knowing.truth(dataset)
    path = tmp_path / "new" / "found.json"
    results = evaluate(model, variables, dataset, "val", config, results_json=path)
    metrics = results.metrics()
    for name in ("panoptic/PQ", "panoptic/PQ_things", "panoptic/PQ_stuff", "semantic/mIoU"):
        assert metrics[name] == pytest.approx(1.0), name
    assert metrics["segm/AP"] == pytest.approx(1.0)
    assert results.panoptic.num_images == 5
    assert all(word in results.text() for word in ("segm AP", "mIoU 100.0", "Things"))
    assert [f.name for f in results.files] == [
        "found.json",
        "found_panoptic.json",
        "found_panoptic",
    ]
    written = json.loads((path.parent / "found_panoptic.json").read_text())
    truth = json.loads((folder / "shapes/annotations/panoptic_val.json").read_text())
    assert written["categories"] == [
        {key: c[key] for key in ("id", "name", "isthing")} for c in truth["categories"]
    ]
    of_image = {entry["image_id"]: entry for entry in truth["annotations"]}
    for entry in written["annotations"]:
        found = Image.open(path.parent / "found_panoptic" / entry["file_name"])
        assert found.size == (knowing.SIDE, knowing.SIDE)
        areas = sorted((s["category_id"], s["area"]) for s in entry["segments_info"])
        assert areas == sorted(
            (s["category_id"], s["area"])
            for s in of_image[entry["image_id"]]["segments_info"]
            if not s["iscrowd"]
        )
    # Every pixel class is swapped for another; the instances stay.
    swapped = variables | {"logits": np.roll(variables["logits"], 1, axis=-1)}
    worse = evaluate(model, swapped, dataset, "val", config).metrics()
    assert (worse["panoptic/PQ_stuff"], worse["semantic/mIoU"]) == (0.0, 0.0)
    assert worse["panoptic/PQ_things"] == pytest.approx(1.0)
    assert worse["segm/AP"] == pytest.approx(1.0)


def test_refined_masks_are_what_panoptic_maps_are_made_of(opened):
    config, dataset = opened
    known, side = knowing.truth(dataset), knowing.SIDE // 8
    blocks = known["masks"].reshape(*known["masks"].shape[:2], side, 8, side, 8)
    coarse = known | {"masks": blocks.mean((3, 5))}
    plain, refined = (
        evaluate(panoptic(dataset), coarse, dataset, "val", config, refine=refine).metrics()
        for refine in (None, MaskRefinement(side=knowing.SIDE))
    )
    for name in ("panoptic/SQ_things", "segm/AP"):
        assert 0 < plain[name] < refined[name] - 0.02, name
    assert plain["semantic/mIoU"] == refined["semantic/mIoU"]


def test_a_semantic_model_that_knows_the_truth_scores_one(folder, tmp_path):
    config = knowing.data_config(folder, merge_things="no", instances=False)
    dataset = open_dataset(config)
    model = knowing.KnowingModel(None, len(dataset.semantic_names))
    variables = knowing.truth(dataset)
    path = tmp_path / "found.json"
    results = evaluate(model, variables, dataset, "val", config, results_json=path)
    assert results.scores is None and results.panoptic is None and results.detections == []
    assert results.metrics()["semantic/mIoU"] == 1.0
    assert set(results.metrics()) == {
        f"semantic/{name}" for name in ("mIoU", "mIoU_true", "fwIoU", "mACC", "pACC")
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["found_semantic", "found_semantic.txt"]
    names = (tmp_path / "found_semantic.txt").read_text().splitlines()
    assert names == list(dataset.semantic_names)
    for image_id, labels in dataset.semantic_labels("val").items():
        found = np.array(Image.open(tmp_path / "found_semantic" / f"{image_id:012d}.png"))
        np.testing.assert_array_equal(found[labels != 255], labels[labels != 255])


def test_boundary_iou_of_the_truth_is_one_and_of_a_shifted_map_less(opened):
    _, dataset = opened
    model, classes = panoptic(dataset), Classes.of(panoptic(dataset), dataset)
    labels, segments = dataset.semantic_labels("val"), dataset.panoptic("val")

    def score(shift, **given):
        scores = MapScores(model, dataset, "val", classes, **given)
        for image_id, true in labels.items():
            ids, listed = segments[image_id]
            moved = np.roll(true, shift, axis=1)
            maps = PanopticMap.from_segments(ids, listed, dataset.panoptic_categories)
            semantic = SemanticMap(moved, dataset.semantic_names)
            scores.add(image_id, Result(true.shape, semantic=semantic, panoptic=maps))
        return scores.semantic.metrics()

    truth, shifted = score(0, boundary=True), score(2, boundary=True)
    assert truth["semantic/boundary_mIoU"] == truth["semantic/mIoU"] == 1.0
    assert shifted["semantic/boundary_mIoU"] < shifted["semantic/mIoU"] < 1.0
    assert "semantic/boundary_mIoU" not in score(0)


def test_what_is_not_scored_is_said(folder, opened):
    _, dataset = opened
    none = knowing.data_config(folder, semantic="none", merge_things="no")
    unlabelled, model = open_dataset(none), panoptic(dataset)
    results = evaluate(model, knowing.truth(dataset), unlabelled, "val", none)
    assert (results.semantic, results.panoptic) == (None, None)
    assert results.text().splitlines()[:2] == [
        "mean IoU is not scored: --data.semantic=none gives no labels",
        "panoptic quality is not scored: --data.semantic=none gives no segments,"
        " --data.semantic=panoptic does",
    ]
    assert results.metrics()["segm/AP"] == pytest.approx(1.0)


@dataclasses.dataclass(frozen=True)
class LikeHTC(fakes.OracleModel):
    """A model with a semantic branch that it does not expose."""

    classes: ClassCounts = ClassCounts(things=3, pixels=3)


def test_semantic_branches_that_are_no_output_are_not_scored(opened):
    config, dataset = opened
    variables = fakes.oracle_variables()
    for model, reason in (
        (LikeHTC(), "the model's semantic branch only serves its detections"),
        (fakes.OracleModel(), "the model has no semantic branch"),
    ):
        results = evaluate(model, variables, dataset, "val", config)
        assert results.notes == (f"mean IoU is not scored: {reason}",)
        assert "semantic/mIoU" not in results.metrics()


def test_labels_of_other_classes_are_refused(opened):
    config, dataset = opened
    variables = knowing.truth(dataset)
    wrong = knowing.KnowingModel(4, 7, PanopticMerge())
    with pytest.raises(ValueError, match=r"7 semantic classes, the labels .*panoptic have 3"):
        Evaluator(wrong, dataset, config)(variables)
    names = ("things", "sea", *dataset.semantic_names[2:])
    ours = Classes(semantic_names=names)
    words = rf"number 1 is sea in the model and {dataset.semantic_names[1]} in the data"
    with pytest.raises(ValueError, match=words):
        Evaluator(panoptic(dataset), dataset, config, classes=ours)(variables)


def test_logits_that_are_not_finite_are_refused(opened):
    config, dataset = opened
    variables = knowing.truth(dataset)
    variables["logits"][1, 5, 5, 1] = np.nan
    with pytest.raises(ValueError, match=r"semantic logits of row . of the batch, of 64 x 64"):
        Evaluator(panoptic(dataset), dataset, config)(variables)


def test_a_predictor_gives_one_result_of_everything(opened):
    config, dataset = opened
    variables = knowing.truth(dataset)
    known = Classes.of(panoptic(dataset), dataset)
    image_id, image = first_image(dataset)
    for classes in (known, Classes()):
        predictor = Predictor(panoptic(dataset), variables, classes, config, pad_multiple=32)
        found = predictor.result(image)
        assert found.image_size == found.semantic.image_size == found.panoptic.image_size
        assert len(predictor(image)) == len(found.instances)
        ids, segments = dataset.panoptic("val")[image_id]
        stuff = {s.id for s in segments if s.category_id not in dataset.category_ids}
        assert len(found.panoptic.segments) == len(stuff) + len(found.instances)
        for segment in found.panoptic.segments:
            true = set(np.unique(ids[found.panoptic.mask(segment.id)]))
            assert len(true) == 1
            if classes is known:
                assert [s.category_id for s in segments if s.id in true] == [segment.category.id]
            if segment.category.is_thing:
                named = found.object(found.segment_names[segment.id])
                assert (named.class_name, named.score) == (segment.category.name, segment.score)
                np.testing.assert_array_equal(named.mask.pixels, found.panoptic.mask(segment.id))
    names = {category.name for category in found.panoptic.categories}
    assert names == {*(f"class {k}" for k in range(4)), "stuff 1", "stuff 2"}


def test_a_semantic_predictor_has_no_objects(opened):
    config, dataset = opened
    model = knowing.KnowingModel(None, len(dataset.semantic_names))
    predictor = Predictor(model, knowing.truth(dataset), data=config, pad_multiple=32)
    image_id, image = first_image(dataset)
    found = predictor.result(image)
    assert (found.instances, found.panoptic) == (None, None)
    labels = dataset.semantic_labels("val")[image_id]
    np.testing.assert_array_equal(found.semantic.labels[labels != 255], labels[labels != 255])
    with pytest.raises(ValueError, match=r"the model knows no objects.*Predictor\.result"):
        predictor(image)


def first_image(dataset):
    from segjax.data.build import open_records
    from segjax.data.images import decode_image

    split = dataset.split("val")
    return int(split.index[0, 0]), decode_image(open_records(split)[0]["image"])
