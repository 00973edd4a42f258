import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segjax.ops.matching import Matcher, Matches
from tests.support.drawing import EDGE_BOXES, integer_boxes, overlaps

SEEDS = st.integers(0, 2**32 - 1)
NUM_BOXES, NUM_GT = 30, 10  # not a multiple of the block size, so that the last block has padding

# Boxes with integer coordinates can reach these thresholds exactly.
TORCHVISION = Matcher(0.7, 0.3, "keep_argmax")
MMDET = Matcher(0.7, 0.3, "overwrite", 0.3)
MMDET_HEAD = Matcher(0.5, 0.5, "overwrite", 0.5)
BOX_HEAD = Matcher(0.5, 0.5, "none")
MATCHERS = [TORCHVISION, MMDET, MMDET_HEAD, BOX_HEAD]
NAMES = ["torchvision", "mmdet", "mmdet_head", "box_head"]

jit_match = jax.jit(
    lambda matcher, boxes, valid, gt, gt_valid: matcher.match(boxes, valid, gt, gt_valid),
    static_argnums=0,
)


def oracle_threshold(iou: np.ndarray, matcher: Matcher) -> tuple[np.ndarray, np.ndarray]:
    """Returns object and label of each box by the thresholds; `iou` is [boxes, objects]."""
    index, label = np.zeros(len(iou), int), np.full(len(iou), -1)
    for n, row in enumerate(iou):
        index[n] = int(np.argmax(row))
        if row[index[n]] >= matcher.high:
            label[n] = 1
        elif row[index[n]] < matcher.low:
            label[n] = 0
    return index, label


def oracle_keep_argmax(iou: np.ndarray, index: np.ndarray, label: np.ndarray) -> None:
    """Detectron2's set_low_quality_matches_: changes labels, but not objects."""
    highest = iou.max(axis=0)
    for n, _ in np.argwhere(iou == highest[None, :]):
        label[n] = 1


def oracle_overwrite(iou: np.ndarray, index, label, min_iou: float) -> None:
    """The last step of mmdet's assign_wrt_overlaps: object by object, in order."""
    for g in range(iou.shape[1]):
        highest = iou[:, g].max()
        if highest >= min_iou:
            for n in np.flatnonzero(iou[:, g] == highest):
                index[n], label[n] = g, 1


def oracle(matcher: Matcher, boxes, valid, gt, gt_valid) -> tuple[np.ndarray, np.ndarray]:
    """Applies the peer's algorithm to valid boxes and valid objects only."""
    rows, columns = np.flatnonzero(valid), np.flatnonzero(gt_valid)
    index, label = np.zeros(len(boxes), int), np.full(len(boxes), -1)
    if len(rows) == 0:
        return index, label
    if len(columns) == 0:
        label[rows] = 0
        return index, label
    iou = overlaps(boxes[rows], gt[columns])
    some_index, some_label = oracle_threshold(iou, matcher)
    if matcher.low_quality == "keep_argmax":
        oracle_keep_argmax(iou, some_index, some_label)
    if matcher.low_quality == "overwrite":
        oracle_overwrite(iou, some_index, some_label, matcher.min_low_quality_iou)
    index[rows], label[rows] = columns[some_index], some_label
    return index, label


def draw(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Boxes on a small grid, where ties and overlaps equal to a threshold are frequent."""
    rng = np.random.default_rng(seed)
    boxes, gt = integer_boxes(rng, NUM_BOXES, 8), integer_boxes(rng, NUM_GT, 8)
    gt[:3] = boxes[:3]  # some objects match boxes exactly, some match two
    boxes[5] = boxes[0]
    valid = rng.random(NUM_BOXES) < 0.8
    gt_valid = rng.random(NUM_GT) < rng.choice([0.0, 0.5, 1.0])
    return boxes, valid, gt, gt_valid


def check(got: Matches, want: tuple[np.ndarray, np.ndarray]) -> None:
    index, label = want
    np.testing.assert_array_equal(got.label, label)
    # Ignored boxes have no object; for all others the argmax is the peer's.
    positive = label == 1
    np.testing.assert_array_equal(np.asarray(got.gt_index)[positive], index[positive])
    assert got.gt_index.min() >= 0 and got.gt_index.max() < NUM_GT


@pytest.mark.parametrize("matcher", MATCHERS, ids=NAMES)
@given(SEEDS)
def test_matches_equal_the_peers_loops(matcher, seed):
    drawn = draw(seed)
    got = jit_match(matcher, *map(jnp.asarray, drawn))
    check(got, oracle(matcher, *drawn))


@pytest.mark.parametrize("matcher", MATCHERS, ids=NAMES)
@given(SEEDS)
def test_padding_never_matters(matcher, seed):
    boxes, valid, gt, gt_valid = draw(seed)
    rng = np.random.default_rng(seed + 1)
    got = jit_match(matcher, *map(jnp.asarray, (boxes, valid, gt, gt_valid)))
    for filler in (EDGE_BOXES, np.full((1, 4), np.nan, np.float32), boxes[valid][:1]):
        other_boxes, other_gt = boxes.copy(), gt.copy()
        if len(filler):
            other_boxes[~valid] = rng.choice(filler, (~valid).sum())
            other_gt[~gt_valid] = rng.choice(filler, (~gt_valid).sum())
        again = jit_match(matcher, *map(jnp.asarray, (other_boxes, valid, other_gt, gt_valid)))
        np.testing.assert_array_equal(again.label, got.label)
        positive = np.asarray(got.label) == 1
        np.testing.assert_array_equal(again.gt_index[positive], got.gt_index[positive])


def test_a_tie_makes_every_best_box_positive():
    gt = jnp.array([[10.0, 10, 20, 20]])
    boxes = jnp.array([[10.0, 10, 20, 40], [10, -10, 20, 20], [10, 10, 20, 60], [90, 90, 99, 99]])
    keep = jit_match(TORCHVISION, boxes, None, gt, jnp.array([True]))
    assert keep.label.tolist() == [1, 1, 0, 0]  # IoU 1/3, 1/3, 1/5, 0
    higher = jit_match(Matcher(0.7, 0.3, "overwrite", 0.4), boxes, None, gt, jnp.array([True]))
    assert higher.label.tolist() == [-1, -1, 0, 0]  # 1/3 is below mmdet's minimum


def test_the_peers_disagree_on_whose_the_box_is():
    # The box overlaps the first object by 0.8. It is also the best box of the second, at 0.4.
    boxes = jnp.array([[0.0, 0, 10, 10]])
    gt = jnp.array([[0.0, 0, 8, 10], [0, 0, 4, 10]])
    both = jnp.array([True, True])
    assert jit_match(TORCHVISION, boxes, None, gt, both).gt_index.tolist() == [0]
    assert jit_match(MMDET, boxes, None, gt, both).gt_index.tolist() == [1]
    assert jit_match(MMDET, boxes, None, gt, jnp.array([True, False])).gt_index.tolist() == [0]


@pytest.mark.parametrize("matcher", MATCHERS, ids=NAMES)
def test_without_objects_everything_is_negative(matcher):
    boxes = jnp.asarray(EDGE_BOXES)
    none = jit_match(matcher, boxes, None, jnp.zeros((3, 4)), jnp.zeros(3, bool))
    assert not none.label.any()
    empty = jit_match(matcher, boxes, None, jnp.zeros((0, 4)), jnp.zeros(0, bool))
    assert not empty.label.any() and not empty.gt_index.any()


def test_objects_without_boxes_reach_nobody():
    # The object's only box is invalid; the object must not fall back on other boxes.
    boxes = jnp.array([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    gt = jnp.array([[0.0, 0, 10, 10]])
    got = jit_match(MMDET, boxes, jnp.array([False, True]), gt, jnp.array([True]))
    assert got.label.tolist() == [-1, 0]
    got = jit_match(MMDET, boxes, jnp.array([False, False]), gt, jnp.array([True]))
    assert got.label.tolist() == [-1, -1]


def test_batches_go_by_vmap_and_do_not_mix():
    drawn = [draw(seed) for seed in (1, 2)]
    spoilt = [np.full_like(drawn[1][0], np.nan), *drawn[1][1:]]
    stacked = [jnp.stack([a, b]) for a, b in zip(drawn[0], spoilt, strict=True)]
    got = jax.jit(jax.vmap(TORCHVISION.match))(*stacked)
    alone = jit_match(TORCHVISION, *map(jnp.asarray, drawn[0]))
    np.testing.assert_array_equal(got.label[0], alone.label)
    np.testing.assert_array_equal(got.gt_index[0], alone.gt_index)


@pytest.mark.parametrize("matcher", MATCHERS, ids=NAMES)
def test_shards_are_independent_and_checked(matcher):
    # Anchors and validity are replicated across devices, objects are sharded.
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    boxes, _, gt, gt_valid = map(jnp.asarray, draw(4))

    def one(gt):
        return matcher.match(boxes, None, gt, gt_valid).label

    spec = jax.sharding.PartitionSpec("data")
    mapped = jax.shard_map(jax.vmap(one), mesh=mesh, in_specs=spec, out_specs=spec)
    both = jnp.stack([gt, gt[::-1]])
    np.testing.assert_array_equal(jax.jit(mapped)(both), jax.jit(jax.vmap(one))(both))


def test_targets_are_constants_of_the_loss():
    boxes, _, gt, gt_valid = map(jnp.asarray, draw(3))

    def loss(boxes, gt):
        matches = TORCHVISION.match(boxes, None, gt, gt_valid)
        return jnp.sum(jnp.where(matches.label == 1, 1.0, 0.5) * boxes[:, 0])

    with jax.debug_nans(True):
        by_boxes, by_gt = jax.jit(jax.grad(loss, argnums=(0, 1)))(boxes, gt)
    assert np.isfinite(by_boxes).all() and not np.asarray(by_gt).any()


def test_anchors_of_a_picture_need_no_matrix():
    # 268,000 anchors x 100 objects would take 107 MB; row blocks stay below a quarter of that.
    shapes = (
        jax.ShapeDtypeStruct((268_506, 4), jnp.float32),
        jax.ShapeDtypeStruct((100, 4), jnp.float32),
        jax.ShapeDtypeStruct((100,), jnp.bool_),
    )
    compiled = jax.jit(lambda b, g, v: MMDET.match(b, None, g, v)).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 27e6


def test_wrong_matchers_are_refused():
    with pytest.raises(ValueError, match=r"low is 0.7 and high 0.3"):
        Matcher(0.3, 0.7, "none")
    with pytest.raises(ValueError, match="low is 0"):
        Matcher(0.3, 0.0, "none")
