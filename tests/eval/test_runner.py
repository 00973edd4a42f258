import dataclasses
import json
import math

import numpy as np
import pytest

from segjax.data.config import DataConfig
from segjax.data.pipeline import open_dataset
from segjax.eval.runner import Evaluator, _DataClasses, evaluate
from segjax.figure_ground.refine import MaskRefinement
from segjax.results.classes import Classes, data_categories
from segjax.results.detections import ImageDetections
from segjax.results.postprocess import predict_original
from tests.support import fakes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("coco")
    content = fakes.write_folder(root / "data")
    config = DataConfig(
        root=str(root / "data"),
        cache_dir=str(root / "cache"),
        eval_batch_size=2,
        short_side=(83,),
        long_side=140,
    )
    return config, open_dataset(config), content


@pytest.mark.parametrize("padded", [False, True])
def test_a_model_that_knows_the_truth_scores_one(folder, padded):
    config, dataset, content = folder
    model = fakes.OracleModel(padded=padded)
    results = evaluate(model, fakes.oracle_variables(), dataset, "val", config)
    assert results.scores.num_images == len(fakes.SIZES)
    assert len(results.detections) == len(content["annotations"])
    assert results.scores.box.ap == pytest.approx(1.0)
    # Torchvision truncates pasted boxes to whole pixels, which lowers the scores of these small
    # objects.
    assert results.metrics()["segm/AP"] > (0.85 if padded else 0.95)
    assert results.metrics()["segm/AP50"] == 1.0
    assert math.isnan(results.scores.box.per_class[90])
    assert "segm AP" in results.text()
    # Images per second cover prediction only, a part of the total time.
    assert results.images_per_second * results.seconds >= len(fakes.SIZES)


def test_boundary_ap_is_passed_on(folder):
    config, dataset, _ = folder
    model = fakes.OracleModel()
    results = evaluate(model, fakes.oracle_variables(), dataset, "val", config, boundary=True)
    metrics = results.metrics()
    assert 0.8 < metrics["boundary/AP"] <= metrics["segm/AP"]
    with pytest.raises(ValueError, match="the model gives neither"):
        Evaluator(fakes.OracleModel(masks=False), dataset, config, boundary=True)


def test_refined_masks_are_scored(folder):
    config, dataset, _ = folder
    oracle, refine = fakes.OracleModel(), MaskRefinement(side=40)
    found = evaluate(
        oracle, fakes.oracle_variables(), dataset, "val", config, boundary=True, refine=refine
    )
    plain = evaluate(oracle, fakes.oracle_variables(), dataset, "val", config, boundary=True)
    ours, theirs = found.metrics(), plain.metrics()
    assert ours["box/AP"] == theirs["box/AP"]
    # The images have a single colour, so there is no contour to follow, and 40 cells are few.
    assert 0.5 < ours["boundary/AP"] < theirs["boundary/AP"]
    with pytest.raises(ValueError, match="no masks to refine"):
        Evaluator(fakes.OracleModel(masks=False), dataset, config, refine=refine)


def test_boxes_and_ids_are_those_of_the_annotations(folder):
    config, dataset, content = folder
    found = evaluate(fakes.OracleModel(), fakes.oracle_variables(), dataset, "val", config)
    for annotation in content["annotations"]:
        same = [
            d["bbox"]
            for d in found.detections
            if (d["image_id"], d["category_id"])
            == (annotation["image_id"], annotation["category_id"])
        ]
        distance = np.abs(np.array(same) - np.array(annotation["bbox"])[None]).max(axis=1)
        assert distance.min() < 1e-3


def test_an_evaluator_compiles_once(folder):
    config, dataset, _ = folder
    model = fakes.OracleModel()
    evaluator = Evaluator(model=model, dataset=dataset, data=config, progress=True)
    predict_original.clear_cache()
    first = evaluator(fakes.oracle_variables())
    compiled = predict_original._cache_size()
    assert compiled == len(dataset.buckets(config))
    again = evaluator(fakes.oracle_variables())
    evaluate(model, fakes.oracle_variables(), dataset, "train", config)
    assert predict_original._cache_size() == compiled
    assert again.scores.metrics() == pytest.approx(first.scores.metrics(), nan_ok=True)


def test_the_results_file_is_coco(folder, tmp_path):
    config, dataset, _ = folder
    path = tmp_path / "new" / "detections.json"
    results = evaluate(
        fakes.OracleModel(), fakes.oracle_variables(), dataset, "val", config, results_json=path
    )
    entries = json.loads(path.read_text())
    assert entries == results.detections
    assert set(entries[0]) == {"image_id", "category_id", "bbox", "score", "segmentation"}


def test_a_model_that_finds_nothing(folder):
    config, dataset, _ = folder
    variables = fakes.oracle_variables() | {"valid": np.zeros((26, fakes.SLOTS), bool)}
    results = evaluate(fakes.OracleModel(), variables, dataset, "val", config)
    assert results.detections == []
    assert results.metrics()["segm/AP"] == 0.0


def test_a_split_without_images_has_no_scores(folder, tmp_path):
    config, _, content = folder
    root = tmp_path / "data"
    fakes.write_folder(root)
    empty = content | {"images": [], "annotations": []}
    (root / "annotations" / "instances_val.json").write_text(json.dumps(empty))
    config = dataclasses.replace(config, root=str(root))
    results = evaluate(
        fakes.OracleModel(), fakes.oracle_variables(), open_dataset(config), "val", config
    )
    assert (results.detections, results.scores.num_images) == ([], 0)
    assert all(math.isnan(value) for value in results.metrics().values())
    assert results.text().splitlines()[-1].split() == ["none", "n/a", "n/a"]


def test_images_that_cannot_be_read_are_not_scored_but_counted(folder, tmp_path):
    config, dataset, content = folder
    root = tmp_path / "data"
    fakes.write_folder(root)
    (root / "val" / content["images"][0]["file_name"]).write_bytes(b"no picture")
    config = dataclasses.replace(config, root=str(root), on_bad_image="skip")
    model, variables = fakes.OracleModel(), fakes.oracle_variables()
    results = evaluate(model, variables, open_dataset(config), "val", config)
    assert (results.num_unreadable, results.scores.num_images) == (1, len(fakes.SIZES) - 1)
    assert results.scores.box.ap == pytest.approx(1.0)
    line = "1 images could not be read and are not scored"
    assert results.text().splitlines()[0] == line
    whole = evaluate(model, variables, dataset, "val", config)
    assert (whole.num_unreadable, "could not be read" in whole.text()) == (0, False)


def test_a_model_without_masks(folder):
    config, dataset, _ = folder
    config = dataclasses.replace(config, masks=False)
    model = fakes.OracleModel(masks=False)
    results = evaluate(model, fakes.oracle_variables(), dataset, "val", config)
    assert results.scores.segm is None
    assert results.scores.box.ap == pytest.approx(1.0)


def test_nan_scores_are_refused(folder):
    config, dataset, _ = folder
    variables = fakes.oracle_variables()
    variables["scores"][2, 1] = np.nan
    with pytest.raises(ValueError, match=r"image 114, category 17\) has score nan"):
        evaluate(fakes.OracleModel(), variables, dataset, "val", config)


def test_threshold_and_limits(folder):
    config, dataset, _ = folder
    model, variables = fakes.OracleModel(), fakes.oracle_variables()
    above = evaluate(model, variables, dataset, "val", config, score_threshold=0.75)
    # Every image except the empty one has a disc (score 0.9) and two boxes (0.8 and 0.7).
    assert [d["category_id"] for d in above.detections] == [3, 17] * 4
    half = 51 / 101  # recall stops at 0.5, the last of 51 of COCO's 101 recall points
    assert above.scores.box.ap == pytest.approx((1 + half) / 2)
    one = evaluate(model, variables, dataset, "val", config, max_detections=1)
    assert len(one.detections) == 4
    assert one.scores.box.per_class == pytest.approx({3: 1.0, 17: 0.0, 90: math.nan}, nan_ok=True)
    limited = evaluate(model, variables, dataset, "val", config, max_dets=(1,))
    assert limited.scores.box.per_class[3] == pytest.approx(1.0)
    assert limited.scores.box.per_class[17] == pytest.approx(half)


def test_classes_are_matched_by_name_and_what_the_data_lack_is_counted(folder):
    _, dataset, _ = folder
    names = ("N/A", *reversed(dataset.class_names), "N/A")
    classes = Classes(names, tuple(range(len(names))))
    assert data_categories(classes, dataset) == (None, *reversed(dataset.category_ids), None)
    found = _DataClasses(classes, dataset)
    size, boxes = (40, 60), np.array([[1, 2, 30, 20]] * 3, np.float32)
    detections = ImageDetections(
        boxes, np.ones(3, np.float32), np.array([0, 1, len(names) - 1], np.int32), size
    )
    (entry,) = found.entries(7, detections)
    assert entry["category_id"] == dataset.category_ids[-1]
    assert found.notes == ("2 detections of classes that the data do not have are left out: N/A 2",)
    with pytest.raises(ValueError, match=f"the data also have {dataset.class_names[-1]}"):
        data_categories(Classes(dataset.class_names[:-1]), dataset)
