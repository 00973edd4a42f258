import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segjax.data.segments import PanopticCategory, Segment
from segjax.eval.panoptic_quality import PanopticQuality
from tests.oracles import oracle_panoptic as oracle
from tests.support import panoptic_truth
from tests.support.examples import examples

CATEGORIES = (
    PanopticCategory(3, "cat", True),
    PanopticCategory(7, "dog", True),
    PanopticCategory(90, "grass", False),
    PanopticCategory(91, "sky", False),
)
SEEDS = st.integers(0, 2**32 - 1)
property_test = examples()


def random_image(seed):
    """A map of blocks with void, small gaps and crowds, and a similar prediction."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 13, 2)
    truth = np.zeros((height, width), np.int64)
    ids = rng.choice(2**31 - 1, 6, replace=False) + 1
    for number in ids:
        y, x = rng.integers(0, height), rng.integers(0, width)
        truth[y : y + rng.integers(1, 9), x : x + rng.integers(1, 9)] = number
    found = truth.copy()
    noise = rng.random(found.shape) < rng.choice([0.0, 0.1, 0.4])
    found[noise] = rng.choice([0, *ids], int(noise.sum()))
    truth[rng.random(truth.shape) < rng.choice([0.0, 0.3, 0.6])] = 0
    classes = {number: int(rng.choice([3, 7, 90])) for number in ids.tolist()}
    segments = [
        Segment(number, classes[number], bool(rng.random() < 0.3))
        for number in ids.tolist()
        if number in truth or rng.random() < 0.3
    ]
    wrong = rng.random() < 0.5
    predicted = [
        Segment(number, 7 if wrong and rng.random() < 0.3 else classes[number])
        for number in np.unique(found).tolist()
        if number
    ]
    return truth, segments, found, predicted


@given(SEEDS)
@property_test
def test_agrees_with_the_oracle(seed):
    images = [random_image(seed + i) for i in range(3)]
    quality = PanopticQuality(CATEGORIES)
    for image in images:
        quality.add(*image)
    counts = [oracle.panoptic_counts(*image) for image in images]
    table, means = oracle.panoptic_means(counts, CATEGORIES)
    results = quality.results()
    for category in CATEGORIES:
        ours = results.per_class[category.id]
        assert ours.num_classes == (category.id in table)
        wanted = [float(v) for v in table.get(category.id, (math.nan,) * 3)]
        np.testing.assert_allclose((ours.pq, ours.sq, ours.rq), wanted, rtol=1e-12)
    for ours, wanted in zip((results.all, results.things, results.stuff), means, strict=True):
        np.testing.assert_allclose((ours.pq, ours.sq, ours.rq), wanted, rtol=1e-12)


@given(SEEDS)
@property_test
def test_parts_of_several_processes_add_up(seed):
    whole, total = PanopticQuality(CATEGORIES), PanopticQuality(CATEGORIES)
    for first in (0, 3):
        part = PanopticQuality(CATEGORIES)
        for i in range(first, first + 3):
            image = random_image(seed + i)
            whole.add(*image)
            part.add(*image)
        total.merge(part.state())
    np.testing.assert_allclose(total.state(), whole.state(), rtol=1e-12)
    assert total.results().num_images == 6
    assert total.results().metrics() == pytest.approx(whole.results().metrics(), nan_ok=True)


@given(SEEDS)
@property_test
def test_truth_fed_back_is_perfect(seed):
    truth, segments, _, _ = random_image(seed)
    # COCO has one crowd per class and image. With several, all except one would be false positives.
    first_crowd = {s.category_id: s.id for s in reversed(segments) if s.is_crowd}
    segments = [
        dataclasses.replace(s, is_crowd=s.is_crowd and first_crowd[s.category_id] == s.id)
        for s in segments
        if s.id in truth
    ]
    quality = PanopticQuality(CATEGORIES)
    quality.add(truth, segments, truth, segments)
    perfect = quality.results()
    if all(segment.is_crowd for segment in segments):
        assert math.isnan(perfect.all.pq)
    else:
        assert (perfect.all.pq, perfect.all.sq, perfect.all.rq) == (1.0, 1.0, 1.0)


def strip(*parts):
    """Makes a map of one row from (id, pixels) pairs."""
    return np.concatenate([np.full(n, number) for number, n in parts])[None].astype(np.int32)


def only(gt, gt_segments, pred, pred_segments, category=3):
    quality = PanopticQuality(CATEGORIES)
    quality.add(gt, gt_segments, pred, pred_segments)
    row = [c.id for c in CATEGORIES].index(category)
    return quality.state()[row].tolist()


def test_an_iou_of_exactly_one_half_is_no_match():
    segments = [Segment(1, 3), Segment(2, 90)]
    half = only(strip((1, 4), (2, 6)), segments, strip((1, 2), (2, 8)), segments)
    assert half == [0.0, 0.0, 1.0, 1.0]
    above = only(strip((1, 5), (2, 5)), segments, strip((1, 3), (2, 7)), segments)
    assert above == [0.6, 1.0, 0.0, 0.0]


def test_void_is_no_part_of_the_union():
    # 4 of 4 true pixels and 20 void pixels: the IoU is 1, not 4 / 24.
    found = only(strip((1, 4), (0, 20)), [Segment(1, 3)], strip((9, 24)), [Segment(9, 3)])
    assert found == [1.0, 1.0, 0.0, 0.0]
    # A void pixel of the prediction does count as a miss.
    missed = only(strip((1, 4)), [Segment(1, 3)], strip((9, 3), (0, 1)), [Segment(9, 3)])
    assert missed == [0.75, 1.0, 0.0, 0.0]


def test_predictions_on_void_and_crowd_are_excused_above_one_half():
    truth = [Segment(1, 3, is_crowd=True), Segment(2, 90)]
    for crowd, void, rest, wrong in ((2, 1, 2, 0), (2, 0, 2, 1), (0, 2, 2, 1), (0, 3, 2, 0)):
        gt = strip((1, crowd), (0, void), (2, rest), (1, 3), (2, 20))
        pred = strip((5, crowd + void + rest), (0, 3), (2, 20))
        found = only(gt, truth, pred, [Segment(5, 3), Segment(2, 90)])
        assert found == [0.0, 0.0, float(wrong), 0.0]
    # A crowd of another class excuses nothing, and nothing matches a crowd.
    gt = strip((1, 5))
    assert only(gt, truth[:1], gt, [Segment(1, 7)], 7) == [0.0, 0.0, 1.0, 0.0]
    assert only(gt, truth[:1], gt, [Segment(1, 3)]) == [0.0, 0.0, 0.0, 0.0]


def test_of_several_crowds_of_a_class_the_last_described_counts():
    gt, pred = strip((1, 4), (2, 1), (3, 4)), strip((9, 5), (0, 4))
    crowds = [Segment(1, 3, is_crowd=True), Segment(3, 3, is_crowd=True)]
    for described, wrong in ((crowds, 1.0), (crowds[::-1], 0.0)):
        segments = [*described, Segment(2, 90)]
        assert only(gt, segments, pred, [Segment(9, 3)])[2] == wrong


def test_classes_without_segments_are_left_out_of_the_means():
    quality = PanopticQuality(CATEGORIES)
    segments = [Segment(1, 3), Segment(2, 90)]
    quality.add(strip((1, 5), (2, 5)), segments, strip((1, 5), (0, 5)), segments[:1])
    results = quality.results()
    assert (results.all.pq, results.all.num_classes) == (0.5, 2)
    assert (results.things.pq, results.stuff.pq) == (1.0, 0.0)
    assert math.isnan(results.per_class[7].pq)
    assert results.metrics()["panoptic/PQ_things"] == 1.0
    lines = results.text().splitlines()
    assert lines[0] == "1 images"
    assert lines[2].split() == ["All", "50.0", "50.0", "50.0", "2"]
    assert lines[6].split() == ["dog", "n/a", "n/a", "n/a", "0"]


def test_a_true_segment_without_pixels_is_missed():
    segments = [Segment(1, 3), Segment(2, 3)]
    gt = strip((1, 5))
    assert only(gt, segments, gt, segments[:1]) == [1.0, 1.0, 0.0, 1.0]


def test_nothing_scored_is_undefined():
    results = PanopticQuality(CATEGORIES).results()
    assert all(math.isnan(value) for value in results.metrics().values())
    assert (results.all.num_classes, results.num_images) == (0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pred_ids": strip((1, 4))}, r"prediction is \(1, 4\) and the ground truth \(1, 5\)"),
        ({"pred_ids": strip((1, 3), (8, 2))}, r"pixels of the prediction have ids \[8\].*\[1\]"),
        ({"gt_ids": strip((4, 5))}, r"pixels of the ground truth have ids \[4\]"),
        ({"gt_ids": strip((-4, 5))}, "ground truth has ids from -4 to -4"),
        ({"pred_ids": np.full((1, 5), 2**31)}, "wanted 0 .void. to 2.31-1"),
        ({"pred_segments": [Segment(1, 3)] * 2}, "prediction describes segment 1 2 times"),
        ({"gt_segments": [Segment(1, 4)]}, r"category 4: the category ids are \[3, 7, 90, 91\]"),
        ({"gt_segments": [Segment(0, 3)]}, "describes segment 0: wanted ids from 1"),
        ({"pred_segments": [Segment(1, 3), Segment(6, 3)]}, r"segments \[6\], which have no pixel"),
    ],
)
def test_what_does_not_fit_is_refused_and_counts_nothing(change, message):
    image = {
        "gt_ids": strip((1, 5)),
        "gt_segments": [Segment(1, 3)],
        "pred_ids": strip((1, 5)),
        "pred_segments": [Segment(1, 3)],
    }
    quality = PanopticQuality(CATEGORIES)
    with pytest.raises(ValueError, match=message):
        quality.add(**(image | change))
    assert not quality.state().any()


def test_categories_and_states_must_fit():
    with pytest.raises(ValueError, match=r"category ids \[3\] occur twice"):
        PanopticQuality([*CATEGORIES, CATEGORIES[0]])
    with pytest.raises(ValueError, match=r"state is \(3, 4\): wanted \(5, 4\)"):
        PanopticQuality(CATEGORIES).merge(PanopticQuality(CATEGORIES[:2]).state())


def _scores_of_truth(limit):
    categories, images = panoptic_truth.read(limit)
    quality = PanopticQuality(categories)
    for ids, segments in images:
        quality.add(ids, segments, ids, segments)
    return quality.results()


def test_truth_of_photographs_is_perfect():
    results = _scores_of_truth(20)
    assert (results.all.pq, results.things.pq, results.stuff.pq) == (1.0, 1.0, 1.0)
    assert results.all.num_classes > 40


@pytest.mark.slow
def test_truth_of_all_photographs_is_perfect():
    results = _scores_of_truth(None)
    assert (results.all.pq, results.all.sq, results.all.rq) == (1.0, 1.0, 1.0)
    assert (results.num_images, results.all.num_classes) == (100, 124)
