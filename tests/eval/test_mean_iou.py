import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segjax.eval.boundary import boundary_iou
from segjax.eval.mean_iou import MeanIou
from tests.oracles import oracle_boundary
from tests.oracles import oracle_panoptic as oracle
from tests.support import panoptic_truth
from tests.support.examples import examples

NAMES = ("road", "sky", "cat", "dog")
SEEDS = st.integers(0, 2**32 - 1)
property_test = examples()


def random_pair(seed):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 10, 2)
    classes = rng.choice(4, rng.integers(1, 5), replace=False)
    truth = rng.choice([*classes, 255], shape).astype(np.uint8)
    found = np.where(rng.random(shape) < 0.5, truth, rng.choice([*classes, 0, 255], shape))
    return truth, found.astype(np.int32)


@given(SEEDS)
@property_test
def test_agrees_with_the_oracle(seed):
    pairs = [random_pair(seed + i) for i in range(3)]
    total = MeanIou(NAMES)
    for pair in pairs:
        total.add(*pair)
    results = total.results()
    for name, wanted in oracle.semantic_scores(pairs, 4, 255).items():
        np.testing.assert_allclose(getattr(results, name), wanted, rtol=1e-12, err_msg=name)
    assert results.num_pixels == sum(int((truth != 255).sum()) for truth, _ in pairs)


@given(SEEDS, st.sampled_from([0.02, 0.15, 0.3]))
@property_test
def test_boundary_iou_agrees_with_the_oracle(seed, ratio):
    pairs = [random_pair(seed + i) for i in range(3)]
    total = MeanIou(NAMES, boundary=True, dilation_ratio=ratio)
    for pair in pairs:
        total.add(*pair)
    results = total.results()
    wanted = oracle_boundary.semantic_boundary_iou(pairs, 4, 255, ratio)
    np.testing.assert_allclose(results.boundary_iou, wanted, rtol=1e-12)
    known = [value for value in wanted if not math.isnan(value)]
    if known:
        assert results.mean_boundary_iou == pytest.approx(sum(known) / len(known))
    # Bands are counted in addition to the other counts, which do not change.
    plain = MeanIou(NAMES)
    for pair in pairs:
        plain.add(*pair)
    np.testing.assert_array_equal(np.delete(total.state(), [4, 5], 0), plain.state())


@given(SEEDS, st.booleans())
@property_test
def test_boundary_does_not_depend_on_the_order_of_classes(seed, crossed):
    truth, found = random_pair(seed)
    order = np.array([2, 3, 0, 1] if crossed else [3, 0, 2, 1])
    scores = []
    for number in (np.arange(4), order):
        table = np.append(number, np.full(252, 255)).astype(np.uint8)
        total = MeanIou(NAMES, boundary=True, dilation_ratio=0.15)
        total.add(table[truth], table[found])
        scores.append(np.array(total.results().boundary_iou)[number])
    np.testing.assert_array_equal(*scores)


@given(SEEDS)
@property_test
def test_parts_of_several_processes_add_up(seed):
    boundary = seed % 2 == 1
    whole, total = (MeanIou(NAMES, boundary=boundary) for _ in range(2))
    for i in range(3):
        part = MeanIou(NAMES, boundary=boundary)
        for sum_of in (whole, part):
            sum_of.add(*random_pair(seed + i))
        total.merge(part.state())
    np.testing.assert_array_equal(total.state(), whole.state())
    assert total.results().num_images == 3


def test_by_hand():
    total = MeanIou(NAMES)
    truth = np.array([[0, 0, 0, 0, 1, 1, 255, 255]], np.uint8)
    found = np.array([[0, 0, 0, 2, 1, 255, 3, 1]], np.uint8)
    total.add(truth, found)
    results = total.results()
    # Class 2 occurs only in the prediction, class 3 only where the truth is ignored.
    assert results.iou[:3] == (0.75, 0.5, 0.0)
    assert math.isnan(results.iou[3])
    assert results.mean_iou == pytest.approx(1.25 / 3)
    assert results.mean_iou_of_true == 0.625
    assert (results.mean_accuracy, results.pixel_accuracy) == (0.625, pytest.approx(4 / 6))
    assert results.frequency_weighted_iou == pytest.approx((0.75 * 4 + 0.5 * 2) / 6)
    assert results.metrics()["semantic/mIoU"] == results.mean_iou
    lines = results.text().splitlines()
    assert lines[0] == "1 images, 6 labelled pixels"
    assert lines[1] == "mIoU 41.7, mIoU_true 62.5, fwIoU 66.7, mACC 62.5, pACC 66.7"
    assert lines[3].split() == ["road", "75.0", "75.0"]
    assert lines[5].split() == ["cat", "0.0", "n/a"]
    assert results.boundary_iou is None and "semantic/boundary_mIoU" not in results.metrics()


def test_boundary_by_hand():
    total = MeanIou(NAMES[:2], boundary=True)
    truth = np.zeros((10, 12), np.uint8)
    truth[:, 6:] = 1
    truth[9] = 255
    found = truth.copy()
    found[4, 3] = 1
    found[9] = 1  # the ground truth is unknown here
    total.add(truth, found)
    results = total.results()
    # Bands of one pixel around 9 x 6 each: 26 of 0, and the eight around the wrong one besides.
    assert results.boundary_iou == (26 / 34, 26 / 27)
    assert results.mean_boundary_iou == pytest.approx((26 / 34 + 26 / 27) / 2)
    assert results.boundary_iou[0] == boundary_iou((truth == 0)[:9], (found == 0)[:9])
    assert results.metrics()["semantic/boundary_mIoU"] == results.mean_boundary_iou
    lines = results.text().splitlines()
    assert lines[1].endswith(", pACC 99.1, boundary_mIoU 86.4")
    assert lines[2].split() == ["class", "IoU", "ACC", "bIoU"]
    assert lines[3].split() == ["road", "98.1", "98.1", "76.5"]


def test_a_shifted_map_loses_more_at_the_boundary():
    truth = np.zeros((120, 160), np.uint8)
    truth[20:100, 30:130] = 1
    total = MeanIou(NAMES[:2], boundary=True)
    total.add(truth, np.roll(truth, 3, axis=1))
    results = total.results()
    assert results.mean_iou > 0.9
    assert results.mean_boundary_iou < 0.7


def test_images_without_labels_leave_everything_undefined():
    total = MeanIou(NAMES, boundary=True)
    total.add(np.full((2, 3), 255, np.uint8), np.zeros((2, 3), np.uint8))
    results = total.results()
    assert math.isnan(results.mean_boundary_iou)
    assert all(math.isnan(value) for value in results.metrics().values())
    assert (results.num_images, results.num_pixels) == (1, 0)


def test_another_ignore_label():
    total = MeanIou(NAMES, ignore_label=-1, boundary=True)
    total.add(np.array([[-1, 0]]), np.array([[1, 0]]))
    assert total.results().mean_iou == total.results().mean_boundary_iou == 1.0


@pytest.mark.parametrize(
    ("truth", "found", "message"),
    [
        ([[0, 1]], [[0]], r"prediction is \(1, 1\) and the ground truth \(1, 2\)"),
        ([[0, 4]], [[0, 1]], r"ground truth has labels from 0 to 4: wanted classes 0\.\.3 or 255"),
        ([[0, 1]], [[0, 4]], "prediction has labels from 0 to 4"),
        ([[0, -1]], [[0, 1]], "ground truth has labels from -1"),
        ([[0, 1]], [[-7, 1]], "prediction has labels from -7"),
    ],
)
def test_what_does_not_fit_is_refused_and_counts_nothing(truth, found, message):
    total = MeanIou(NAMES)
    with pytest.raises(ValueError, match=message):
        total.add(np.array(truth), np.array(found))
    assert not total.state().any()


def test_classes_and_states_must_fit():
    with pytest.raises(ValueError, match="class_names is empty"):
        MeanIou([])
    with pytest.raises(ValueError, match="ignore_label 1 is class 'sky'"):
        MeanIou(NAMES, ignore_label=1)
    with pytest.raises(ValueError, match=r"state is \(3, 3\): wanted \(5, 5\)"):
        MeanIou(NAMES).merge(MeanIou(NAMES[:2]).state())
    with pytest.raises(
        ValueError, match=r"is \(5, 5\): wanted \(7, 5\), of 4 classes with boundary"
    ):
        MeanIou(NAMES, boundary=True).merge(MeanIou(NAMES).state())
    with pytest.raises(ValueError, match="of 4 classes without boundary"):
        MeanIou(NAMES).merge(MeanIou(NAMES, boundary=True).state())
    with pytest.raises(ValueError, match=r"dilation_ratio is 0\.0"):
        MeanIou(NAMES, boundary=True, dilation_ratio=0.0)


def _scores_of_truth(limit):
    categories, images = panoptic_truth.read(limit)
    class_of = {category.id: number for number, category in enumerate(categories)}
    total = MeanIou([category.name for category in categories], boundary=True)
    for ids, segments in images:
        labels = np.full(ids.shape, 255, np.uint8)
        for segment in segments:
            labels[ids == segment.id] = class_of[segment.category_id]
        total.add(labels, labels)
    return total.results()


def test_truth_of_photographs_is_perfect():
    results = _scores_of_truth(20)
    assert set(results.metrics().values()) == {1.0}
    assert "semantic/boundary_mIoU" in results.metrics()
    assert sum(value == 1.0 for value in results.iou) > 40


@pytest.mark.slow
def test_truth_of_all_photographs_is_perfect():
    results = _scores_of_truth(None)
    assert set(results.metrics().values()) == {1.0}
    assert results.num_images == 100
