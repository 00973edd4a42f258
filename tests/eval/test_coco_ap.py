import contextlib
import dataclasses
import io
import json
import math
import pathlib
import tempfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segjax.data import rle
from segjax.data.coco import load_coco
from segjax.data.config import DataConfig
from segjax.data.dataset import open_dataset
from segjax.data.truth import truth_of
from segjax.eval import coco_ap
from tests.oracles import oracle_boundary
from tests.oracles import oracle_coco_ap as oracle
from tests.support.examples import examples
from tests.support.samples import SHARED, encoded

HEIGHT, WIDTH = 60, 80


class AnyImage:
    """A store of image files that are never read."""

    def problem(self, name):
        return None

    def read(self, name):
        raise AssertionError(name)

    def where(self, name):
        return str(name)


def coco_scores(content, detections, on_problem="raise", **options):
    """Scores detections against an annotation file's content, as read by data/coco.py."""
    images = [{"file_name": f"{image['id']}.png"} | image for image in content["images"]]
    objects = [{"id": n} | entry for n, entry in enumerate(content["annotations"])]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "truth.json")
        path.write_text(json.dumps(content | {"images": images, "annotations": objects}))
        truth = truth_of(load_coco(path, AnyImage(), on_problem=on_problem))
    return coco_ap.coco_scores(truth, detections, **options)


def _rectangle(bbox):
    x, y, w, h = (round(v) for v in bbox)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[max(y, 0) : y + h, max(x, 0) : x + w] = True
    return mask


def _random_set(seed, *, images=6, crowds=True):
    """Random objects of two classes (ids 3 and 7; 9 has none) and jittered detections of them."""
    rng = np.random.default_rng(seed)
    truths, detections = [], []
    for image in range(10, 10 + images):
        for _ in range(rng.integers(0, 7)):
            w, h = rng.integers(4, 50, 2)
            x, y = rng.integers(0, WIDTH - w + 1), rng.integers(0, max(HEIGHT - h, 0) + 1)
            truths.append(_entry(image, rng.choice([3, 7]), [x, y, w, h]))
            truths[-1]["iscrowd"] = int(crowds and rng.random() < 0.15)
            for _ in range(rng.integers(0, 4)):
                jitter = rng.integers(-3, 4, 4) * rng.integers(0, 3)
                x1, y1, w1, h1 = np.maximum(np.array([x, y, w, h]) + jitter, [0, 0, 2, 2])
                detections.append(_entry(image, rng.choice([3, 3, 7]), [x1, y1, w1, h1]))
                detections[-1]["score"] = float(rng.random())
    content = {
        "images": [{"id": i, "height": HEIGHT, "width": WIDTH} for i in range(10, 10 + images)],
        "categories": [{"id": i, "name": f"kind {i}"} for i in (3, 7, 9)],
        "annotations": [entry | {"id": number} for number, entry in enumerate(truths)],
    }
    return content, detections


def _entry(image, category, bbox):
    mask = _rectangle(bbox)
    return {
        "image_id": int(image),
        "category_id": int(category),
        "bbox": [float(v) for v in bbox],
        "area": float(bbox[2] * bbox[3]),
        "iscrowd": 0,
        "mask": mask,
        "segmentation": rle.encode(mask),
    }


def _plain(entries):
    return [{k: v for k, v in entry.items() if k != "mask"} for entry in entries]


def _perfect(content):
    return [
        {k: a[k] for k in ("image_id", "category_id", "bbox", "segmentation")} | {"score": 0.9}
        for a in content["annotations"]
        if not a.get("iscrowd")
    ]


@pytest.fixture
def tiny():
    content, detections = _random_set(0)
    return content | {"annotations": _plain(content["annotations"])}, _plain(detections)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("max_dets", [(1, 10, 100), (2,), (1, 3)])
def test_agrees_with_the_oracle(seed, max_dets):
    content, detections = _random_set(seed)
    scores = coco_scores(
        content | {"annotations": _plain(content["annotations"])},
        _plain(detections),
        masks=True,
        max_dets=max_dets,
    )
    images = [image["id"] for image in content["images"]]
    for found, overlaps in ((scores.box, oracle.box_overlaps), (scores.segm, oracle.mask_overlaps)):
        if overlaps is oracle.mask_overlaps:
            detections = [d | {"area": float(d["mask"].sum())} for d in detections]
        wanted = oracle.coco_summary(
            images, content["annotations"], detections, [3, 7, 9], max_dets, overlaps
        )
        for name in ("ap", "ap50", "ap75"):
            np.testing.assert_allclose(getattr(found, name), wanted[name], atol=1e-12)
        np.testing.assert_allclose(found.ar, wanted["ar"], atol=1e-12)
        per_class = [found.per_class[i] for i in (3, 7, 9)]
        np.testing.assert_allclose(per_class, wanted["per_class"], atol=1e-12)


def test_area_ranges_agree_with_the_oracle():
    content, detections = _random_set(5, images=12)
    scores = coco_scores(
        content | {"annotations": _plain(content["annotations"])}, _plain(detections), masks=False
    )
    images = [image["id"] for image in content["images"]]
    for areas, ap in (((0, 32**2), scores.box.ap_small), ((32**2, 96**2), scores.box.ap_medium)):
        wanted = oracle.coco_summary(
            images,
            content["annotations"],
            detections,
            [3, 7],
            (1, 10, 100),
            oracle.box_overlaps,
            areas,
        )
        assert 0 < ap < 1
        np.testing.assert_allclose(ap, wanted["ap"], atol=1e-12)
    assert math.isnan(scores.box.ap_large)


@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 10, 100), (2,)]))
@examples(0.6)
def test_boundary_ap_agrees_with_the_oracle(seed, max_dets):
    content, detections = _random_set(seed, images=3)
    truths = content["annotations"]
    if not any(truth["iscrowd"] == 0 and truth["category_id"] == 3 for truth in truths):
        truths.append(_entry(10, 3, [5, 5, 20, 30]))
    plain = content | {"annotations": _plain(truths)}
    scores = coco_scores(plain, _plain(detections), masks=True, max_dets=max_dets, boundary=True)
    detections = [d | {"area": float(d["mask"].sum())} for d in detections]
    wanted = oracle.coco_summary(
        [10, 11, 12], truths, detections, [3, 7], max_dets, oracle_boundary.boundary_overlaps
    )
    assert scores.boundary is not None
    assert scores.segm is not None
    for name in ("ap", "ap50", "ap75"):
        np.testing.assert_allclose(getattr(scores.boundary, name), wanted[name], atol=1e-12)
    np.testing.assert_allclose(scores.boundary.ar, wanted["ar"], atol=1e-12)
    assert scores.boundary.ar[-1] <= scores.segm.ar[-1]


def test_boundary_ap_is_scored_when_asked_for(tiny):
    content, detections = tiny
    scores = coco_scores(content, detections, masks=True, boundary=True)
    plain = coco_scores(content, detections, masks=True)
    assert scores.boundary is not None
    assert scores.segm is not None
    assert 0 < scores.boundary.ap < scores.segm.ap
    metrics = scores.metrics()
    assert metrics["boundary/AP"] == scores.boundary.ap
    assert {k: v for k, v in metrics.items() if not k.startswith("boundary/")} == plain.metrics()
    lines = scores.text().splitlines()
    assert lines[-4].split() == ["class", "box", "AP", "segm", "AP", "boundary", "AP"]
    assert {len(line) for line in lines[-4:]} == {len(lines[-4])}
    assert "boundary" in lines
    assert (plain.boundary, "boundary" in plain.text()) == (None, False)
    with pytest.raises(ValueError, match="wanted masks=True"):
        coco_scores(content, detections, masks=False, boundary=True)


def _boundary_of(truths, detections):
    content = {
        "images": [{"id": 10, "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 3, "name": "kind"}],
        "annotations": _plain(truths),
    }
    scores = coco_scores(content, _plain(detections), masks=True, boundary=True)
    assert scores.segm is not None
    assert scores.boundary is not None
    return scores.segm, scores.boundary


def test_crowds_take_detections_by_their_mask_alone():
    crowd = _entry(10, 3, [0, 0, 60, 50]) | {"iscrowd": 1}
    single = _entry(10, 3, [65, 5, 10, 40])
    # Ranked first and inside the crowd, but away from its outline: ignored.
    inside = _entry(10, 3, [20, 15, 20, 20]) | {"score": 0.9}
    _, boundary = _boundary_of([crowd, single], [inside, single | {"score": 0.5}])
    assert boundary.ap == pytest.approx(1.0, abs=1e-12)


def test_boundary_ap_wants_the_mask_to_match_too():
    truth = _entry(10, 3, [2, 2, 76, 56])
    hollow = truth["mask"].copy()
    hollow[8:52, 18:62] = False
    assert oracle_boundary.iou(hollow, truth["mask"]) > 0.55
    assert 0.5 < hollow.sum() / truth["mask"].sum() < 0.55
    found = truth | {"segmentation": rle.encode(hollow), "score": 0.9}
    segm, boundary = _boundary_of([truth], [found])
    assert segm.ap == boundary.ap == pytest.approx(0.1)  # matched at one of ten thresholds


def test_boundary_ap_sorts_detections_by_the_area_of_their_masks():
    truth = _entry(10, 3, [55, 5, 20, 20])
    # 608 pixels in a box of 1600: small, like the true object, so it is a false positive.
    corner = _rectangle([5, 5, 40, 40])
    corner[5:37, 14:45] = False
    wrong = _entry(10, 3, [5, 5, 40, 40]) | {"segmentation": rle.encode(corner), "score": 0.9}
    segm, boundary = _boundary_of([truth], [wrong, truth | {"score": 0.5}])
    assert segm.ap_small == boundary.ap_small == pytest.approx(0.5)


def test_the_printed_form_is_that_of_pycocotools(tiny, tmp_path, capsys):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    content, detections = tiny
    scores = coco_scores(content, detections, masks=True)
    assert capsys.readouterr().out == ""
    # pycocotools takes annotation id 0 for "no match", so ids start at 1.
    for number, annotation in enumerate(content["annotations"], start=1):
        annotation["id"] = number
    (tmp_path / "truth.json").write_text(json.dumps(content))
    plain = [{k: v for k, v in d.items() if k != "area"} for d in detections]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "truth.json"))
    for kind, ours in (("bbox", scores.box), ("segm", scores.segm)):
        left_out = "segmentation" if kind == "bbox" else "bbox"
        results = [{k: v for k, v in d.items() if k != left_out} for d in plain]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(truth, truth.loadRes(results), kind)
            evaluation.evaluate()
            evaluation.accumulate()
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            evaluation.summarize()
        assert ours.summary() == printed.getvalue().rstrip("\n")
    names = list(scores.metrics())
    assert names[:3] == ["box/AP", "box/AP50", "box/AP75"]
    assert {"segm/APs", "segm/AR1", "segm/AR100", "segm/ARl"} <= set(names)


def test_ground_truth_fed_back_scores_one_exactly(tiny):
    content, _ = tiny
    scores = coco_scores(content, _perfect(content), masks=True, boundary=True)
    for found in (scores.box, scores.segm, scores.boundary):
        assert found is not None
        assert (found.ap, found.ap50, found.ap75, found.ar[-1]) == (1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("name", ["coco_ci", "dsb_ci"])
def test_ground_truth_of_real_sets_scores_one_exactly(name):
    path = SHARED / name / "annotations" / "instances_val.json"
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    content = json.loads(path.read_text())
    scores = coco_scores(
        content, _perfect(content), masks=True, max_dets=(1, 10, 1000), boundary=True
    )
    for found in (scores.box, scores.segm, scores.boundary):
        assert found is not None
        assert (found.ap, found.ar[-1]) == (1.0, 1.0)


def _written(folder, content):
    """Writes an annotation file and images of matching sizes; returns a config."""
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
        for image in content["images"]:
            image["file_name"] = f"{image['id']}.png"
            pixels = np.zeros((image["height"], image["width"], 3), np.uint8)
            (folder / split / image["file_name"]).write_bytes(encoded(pixels))
        (folder / "annotations").mkdir(exist_ok=True)
        path = folder / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(content))
    return DataConfig(root=str(folder), cache_dir=str(folder / "cache"))


def _evaluated(monkeypatch, run):
    """Returns the arrays of every COCOeval that `run` accumulates, by IoU type."""
    from pycocotools.cocoeval import COCOeval

    found, accumulate = {}, COCOeval.accumulate

    def accumulated(self, p=None):
        accumulate(self, p)
        arrays = {key: self.eval[key] for key in ("precision", "recall", "scores")}
        found[self.params.iouType] = arrays

    with monkeypatch.context() as patched, contextlib.redirect_stdout(io.StringIO()):
        patched.setattr(COCOeval, "accumulate", accumulated)
        run()
    return found


def _plain_evaluation(path, detections):
    """Runs pycocotools alone on the unmodified annotation file."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO(str(path))
    for kind, other in (("bbox", "segmentation"), ("segm", "bbox")):
        results = [{k: v for k, v in d.items() if k != other} for d in detections]
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()


def _noisy(path, categories):
    """Returns noisy detections of an annotation file's objects: moved, misclassified, missing."""
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
    rng, found = np.random.default_rng(0), []
    for annotation in truth.dataset["annotations"]:
        mask = truth.annToMask(annotation)
        for _ in range(rng.integers(0, 3)):
            dy, dx = rng.integers(-4, 5, 2)
            moved = np.roll(mask, (dy, dx), (0, 1))
            x, y, w, h = annotation["bbox"]
            found.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": int(rng.choice([annotation["category_id"], *categories])),
                    "bbox": [x + float(dx), y + float(dy), w * float(rng.uniform(0.9, 1.1)), h],
                    "segmentation": rle.encode(moved),
                    # Equal scores occur, and their order must match too.
                    "score": float(rng.integers(1, 50)) / 50,
                }
            )
    return found


def _hard_content():
    """Every form of segmentation, crowds, areas unlike the masks' and an image without objects."""
    content, _ = _random_set(3, images=8)
    content["annotations"] = _plain(content["annotations"])
    content["annotations"] = [a | {"id": 5 + 3 * a["id"]} for a in content["annotations"]]
    for number, annotation in enumerate(content["annotations"]):
        x, y, w, h = annotation["bbox"]
        if annotation["iscrowd"]:
            counts = rle.counts_from_string(annotation["segmentation"]["counts"], HEIGHT, WIDTH)
            annotation["segmentation"]["counts"] = counts.tolist()
        elif number % 3 == 0:
            annotation["segmentation"] = [
                [x, y, x + w, y, x + w, y + h],
                [x + w / 2 + 0.3, y + 0.7, x + w, y + h / 3, x + w / 4, y + h],
            ]
        elif number % 3 == 1:
            # Runs of length zero, as some tools write them.
            counts = rle.counts_from_string(annotation["segmentation"]["counts"], HEIGHT, WIDTH)
            split = [*counts[:1], counts[1] - 1, 0, 1, *counts[2:]]
            text = rle.string_from_counts(np.array(split))
            annotation["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": text}
        annotation["area"] = w * h * 0.937 + 0.1 / 3
        annotation["bbox"] = [x + 0.1, y + 0.2, w - 0.3, h - 0.7]
    # A polygon too thin to cover a pixel is an object that nothing can match.
    thin = {"id": 1000, "image_id": 10, "category_id": 3, "iscrowd": 0, "area": 0.02}
    outline = [20.1, 20.1, 20.3, 20.1, 20.3, 20.2]
    content["annotations"].append(
        thin | {"bbox": [20.1, 20.1, 0.2, 0.1], "segmentation": [outline]}
    )
    content["images"].append({"id": 99, "height": HEIGHT, "width": WIDTH})
    return content


def _equals_pycocotools(monkeypatch, config, path):
    content = json.loads(path.read_text())
    detections = _noisy(path, [entry["id"] for entry in content["categories"]])
    wanted = _evaluated(monkeypatch, lambda: _plain_evaluation(path, detections))
    dataset = open_dataset(config)
    path.unlink()  # evaluation has to rely on the records
    truth = dataset.instances("val")
    scored = lambda: coco_ap.coco_scores(truth, detections, masks=True)  # noqa: E731
    found = _evaluated(monkeypatch, scored)
    assert set(found) == set(wanted) == {"bbox", "segm"}
    for kind, arrays in wanted.items():
        assert (arrays["precision"] > 0).any()
        for key, values in arrays.items():
            np.testing.assert_array_equal(found[kind][key], values, err_msg=f"{kind} {key}")


def test_records_score_as_the_annotation_file_does(monkeypatch, tmp_path):
    config = _written(tmp_path, _hard_content())
    _equals_pycocotools(monkeypatch, config, tmp_path / "annotations" / "instances_val.json")


@pytest.mark.parametrize("name", ["coco_ci", "dsb_ci"])
def test_records_of_real_sets_score_as_the_annotation_file_does(monkeypatch, tmp_path, name):
    source = SHARED / name
    if not source.exists():
        pytest.skip(f"{source} is not on this machine")
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        (tmp_path / split).symlink_to(source / split)
        text = (source / "annotations" / f"instances_{split}.json").read_text()
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(text)
    config = DataConfig(root=str(tmp_path), cache_dir=str(tmp_path / "cache"))
    _equals_pycocotools(monkeypatch, config, tmp_path / "annotations" / "instances_val.json")


def test_images_that_were_skipped_are_not_scored(tmp_path):
    config = _written(tmp_path, _random_content())
    (tmp_path / "val" / "11.png").write_bytes(b"damaged")
    dataset = open_dataset(dataclasses.replace(config, on_bad_image="skip"))
    truth = dataset.instances("val")
    assert sorted(truth.images) == [10, 12]
    assert coco_ap.coco_scores(truth, [], masks=True).num_images == 2


def _random_content():
    content, _ = _random_set(1, images=3)
    return content | {"annotations": _plain(content["annotations"])}


def test_nothing_found_scores_zero(tiny):
    scores = coco_scores(tiny[0], [], masks=True)
    assert scores.segm is not None
    assert (scores.box.ap, scores.segm.ap, scores.box.ar) == (0.0, 0.0, (0.0, 0.0, 0.0))
    assert (scores.num_images, scores.num_detections) == (6, 0)


def test_an_empty_split_is_undefined_and_printed_so(tiny):
    for content in (
        tiny[0] | {"images": [], "annotations": []},
        tiny[0] | {"annotations": []},
    ):
        scores = coco_scores(content, [], masks=True)
        assert all(math.isnan(value) for value in scores.metrics().values())
        assert scores.num_objects == 0
        assert scores.box.summary().count("-1.000") == 12
    assert scores.per_class_table().splitlines()[-1].split() == ["kind", "9", "n/a", "n/a"]


def test_images_can_be_chosen(tiny):
    content, _ = tiny
    first = content["annotations"][0]["image_id"]
    results = [d for d in _perfect(content) if d["image_id"] == first]
    assert coco_scores(content, results, masks=False, image_ids=[first]).box.ap == 1.0
    assert coco_scores(content, results, masks=False).box.ap < 1.0
    assert math.isnan(coco_scores(content, results, masks=False, image_ids=[]).box.ap)


def test_duplicates_cost_precision_and_crowds_do_not(tiny):
    content, _ = tiny
    perfect = _perfect(content)
    doubled = coco_scores(content, perfect + [d | {"score": 0.8} for d in perfect], masks=False)
    assert doubled.box.ap == 1.0  # worse duplicates come after all objects are found
    first = coco_scores(content, perfect + [d | {"score": 0.95} for d in perfect], masks=False)
    assert first.box.ap == 1.0  # on ties the better copy is the match
    everything = [d | {"category_id": c} for d in perfect for c in (3, 7)]
    assert coco_scores(content, everything, masks=False).box.ap < 1.0


def test_classes_without_ground_truth_do_not_count(tiny):
    content, _ = tiny
    extra = [_perfect(content)[0] | {"category_id": 9}]
    scores = coco_scores(content, _perfect(content) + extra, masks=True)
    assert scores.box.ap == 1.0
    assert math.isnan(scores.box.per_class[9])


def test_categories_of_one_name_keep_their_own_scores(tiny):
    content, _ = tiny
    renamed = [{"id": 3, "name": "cat"}, {"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]
    results = [d for d in _perfect(content) if d["category_id"] == 3]
    # Data with two classes of one name are refused, but scoring them still works.
    with pytest.raises(ValueError, match='duplicate_category_name: 1; first: "cat" is the name of'):
        coco_scores(content | {"categories": renamed}, results, masks=False)
    named = content | {"categories": renamed}
    scores = coco_scores(named, results, "collect", masks=False)
    assert (scores.box.per_class[3], scores.box.per_class[7]) == (1.0, 0.0)
    assert scores.box.ap == 0.5
    rows = scores.per_class_table().splitlines()[1:]
    assert rows == ["cat (id 3)    100.0", "cat (id 7)      0.0", "dog             n/a"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": float("nan")}, r"detection 1 \(image 1\d, category \d\) has score nan"),
        ({"score": float("inf")}, "score inf: wanted a finite number"),
        ({"bbox": [0.0, float("nan"), 1.0, 1.0]}, "detection 1 .* bbox .*nan"),
        ({"bbox": [0.0, 0.0, -1.0, 1.0]}, "width >= 0"),
        ({"image_id": 999}, "detection 1 .image 999.*ground truth lacks"),
        ({"category_id": 4}, r"category ids of the ground truth are \[3, 7, 9\]"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "zzzzzzzzzzzz"}}, "detection 1"),
        ({"segmentation": {"size": [WIDTH, HEIGHT], "counts": "Pj2"}}, "detection 1"),
    ],
)
def test_bad_detections_are_refused_by_name(tiny, change, message):
    content, _ = tiny
    results = _perfect(content)
    results[1] = results[1] | change
    with pytest.raises(ValueError, match=message):
        coco_scores(content, results, masks=True)


def test_detections_without_masks_are_refused_where_masks_are_scored(tiny):
    content, _ = tiny
    results = [{k: v for k, v in d.items() if k != "segmentation"} for d in _perfect(content)]
    assert coco_scores(content, results, masks=False).segm is None
    with pytest.raises(ValueError, match=r"detection 0 .* has no segmentation"):
        coco_scores(content, results, masks=True)


def test_harmless_gaps_in_the_ground_truth_are_filled(tiny):
    content, _ = tiny
    content["annotations"] = [a for a in content["annotations"] if not a["iscrowd"]]
    results = _perfect(content)
    first, second, third = content["annotations"][:3]
    del first["bbox"], first["area"]
    second["segmentation"] = []
    x, y, w, h = third["bbox"]
    square = [x, y, x + w, y, x + w, y + h, x, y + h]
    third["segmentation"] = [square, [x, y, x + 1, y]]
    results[2]["segmentation"] = [square]
    scores = coco_scores(content, results, masks=True)
    assert scores.box.ap == 1.0
    assert scores.segm is not None
    # The object without a mask is neither found nor missed.
    assert scores.segm.ap == 1.0


@pytest.mark.parametrize("max_dets", [(), (0, 10), (-1,)])
def test_max_dets_must_be_positive(tiny, max_dets):
    with pytest.raises(ValueError, match="max_dets"):
        coco_scores(tiny[0], [], masks=False, max_dets=max_dets)


def test_the_report_reads_well(tiny):
    content, detections = tiny
    text = coco_scores(content, detections, masks=True, max_dets=(1, 300)).text()
    assert "maxDets=300" in text
    assert "maxDets=100" not in text
    assert text.splitlines()[-4].split() == ["class", "box", "AP", "segm", "AP"]
