from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segjax.ops import nms as nms_module
from segjax.ops.nms import nms, nms_topk
from tests.support.drawing import (
    EDGE_BOXES,
    area,
    clustered_boxes,
    integer_boxes,
    intersection,
    overlaps,
)

SEEDS = st.integers(0, 2**32 - 1)
SIZE = 40
METHODS = ["loop", "fixpoint", "blocked", "auto"]
TWENTIETHS = np.arange(1, 20)  # thresholds 0.05 to 0.95
THRESHOLDS = jnp.asarray(TWENTIETHS / 20, jnp.float32)


@pytest.fixture(scope="module", params=METHODS)
def at_all_thresholds(request):
    """Compiles `(boxes, scores, valid, groups) -> keep [19, N]` once per method.

    Tile size and number of unrolled rounds are reduced, so that 40 boxes fill three tiles, the last
    one partly, and also need the while loop.
    """
    method = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nms_module, "_TILE", 16)
        patch.setattr(nms_module, "_UNROLLED_ROUNDS", 2)

        @jax.jit
        def function(boxes, scores, valid, groups):
            def one(threshold):
                return nms(boxes, scores, valid, threshold, groups, method=method)

            return jax.vmap(one)(THRESHOLDS)

        function(*map(jnp.asarray, draw(0)))  # compiles while the patch is active
    return function


def oracle(suppresses, scores, valid, groups) -> np.ndarray:
    """Greedy suppression, box by box; `suppresses(i, j)` compares two boxes."""
    keep = np.zeros(len(scores), bool)
    order = sorted(np.flatnonzero(valid), key=lambda i: (-scores[i], i))
    for i in order:
        kept = np.flatnonzero(keep)
        keep[i] = not any(groups[j] == groups[i] and suppresses(j, i) for j in kept)
    return keep


def draw(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    boxes = integer_boxes(rng, SIZE, int(rng.choice([4, 8, 40])))
    boxes[SIZE // 2 :: 3] = boxes[: len(boxes[SIZE // 2 :: 3])]  # duplicates
    scores = rng.integers(0, rng.choice([2, 6, 1000]), SIZE).astype(np.float32) / 8
    valid = rng.random(SIZE) < rng.choice([0.0, 0.7, 1.0], p=[0.1, 0.6, 0.3])
    groups = rng.integers(0, rng.choice([1, 3]), SIZE).astype(np.int32)
    return boxes, scores, valid, groups


@given(seed=SEEDS)
def test_keep_set_is_exact_at_every_threshold(at_all_thresholds, seed):
    boxes, scores, valid, groups = draw(seed)
    got = np.asarray(at_all_thresholds(*map(jnp.asarray, (boxes, scores, valid, groups))))
    shared = np.array([[intersection(a, b) for b in boxes] for a in boxes])
    areas = np.array([area(box) for box in boxes])
    union = areas[:, None] + areas[None] - shared
    for twentieths, keep in zip(TWENTIETHS, got, strict=True):
        # Integer arithmetic: IoU > t / 20 without division or rounding.
        more = 20 * shared > twentieths * union
        want = oracle(lambda i, j, more=more: more[i, j], scores, valid, groups)
        np.testing.assert_array_equal(keep, want)


@given(seed=SEEDS)
def test_keep_set_of_jittered_boxes(at_all_thresholds, seed):
    rng = np.random.default_rng(seed)
    boxes = clustered_boxes(rng, SIZE, 4)
    scores = rng.random(SIZE).astype(np.float32)
    valid, groups = np.ones(SIZE, bool), np.zeros(SIZE, np.int32)
    got = np.asarray(at_all_thresholds(*map(jnp.asarray, (boxes, scores, valid, groups))))
    iou = overlaps(boxes, boxes)
    for twentieths, keep in zip(TWENTIETHS, got, strict=True):
        threshold = twentieths / 20
        if np.abs(iou - threshold).min() < 1e-6:
            continue  # float32 cannot resolve which side of the threshold it is on
        want = oracle(lambda i, j, t=threshold: iou[i, j] > t, scores, valid, groups)
        np.testing.assert_array_equal(keep, want)


@given(seed=SEEDS)
def test_padding_never_matters(at_all_thresholds, seed):
    boxes, scores, valid, groups = draw(seed)
    rng = np.random.default_rng(seed + 1)
    got = at_all_thresholds(*map(jnp.asarray, (boxes, scores, valid, groups)))
    fillers = np.concatenate([EDGE_BOXES, np.full((1, 4), np.nan, np.float32), boxes[:3]])
    boxes[~valid] = rng.choice(fillers, (~valid).sum())
    scores[~valid] = rng.choice([np.nan, np.inf, -np.inf, 1e30], (~valid).sum())
    again = at_all_thresholds(*map(jnp.asarray, (boxes, scores, valid, groups)))
    np.testing.assert_array_equal(got, again)
    assert not np.asarray(again)[:, ~valid].any()


def test_long_chains_need_every_round(at_all_thresholds):
    # Each box overlaps the next one by 1/3 and no other, so every second one survives. Whether the
    # last one does is known only after 40 rounds.
    left = np.arange(SIZE, dtype=np.float32)
    boxes = np.stack([left, 0 * left, left + 2, 0 * left + 10], axis=1)
    args = (boxes, -left, np.ones(SIZE, bool), np.zeros(SIZE, np.int32))
    keep = np.asarray(at_all_thresholds(*map(jnp.asarray, args)))
    np.testing.assert_array_equal(keep[TWENTIETHS == 5][0], np.arange(SIZE) % 2 == 0)
    assert keep[TWENTIETHS == 7].all()


def test_edge_boxes_suppress_as_they_should(at_all_thresholds):
    boxes = np.resize(EDGE_BOXES, (SIZE, 4))
    args = (
        boxes,
        -np.arange(SIZE, dtype=np.float32),
        np.ones(SIZE, bool),
        np.zeros(SIZE, np.int32),
    )
    keep = np.asarray(at_all_thresholds(*map(jnp.asarray, args)))[TWENTIETHS == 10][0]
    assert keep[0] and not keep[len(EDGE_BOXES)]  # an ordinary box and its duplicate
    assert keep[6] and not keep[len(EDGE_BOXES) + 6]  # 1e30 pixels wide
    assert keep[1] and keep[len(EDGE_BOXES) + 1]  # boxes without area overlap nothing


def test_one_picture_does_not_reach_another():
    boxes, scores, valid, groups = map(jnp.asarray, draw(5))
    batch = jax.jit(jax.vmap(lambda b, s: nms(b, s, valid, 0.5, groups, method="fixpoint")))
    keep = batch(jnp.stack([boxes, boxes * jnp.nan]), jnp.stack([scores, scores * jnp.nan]))
    alone = jax.jit(lambda b, s: nms(b, s, valid, 0.5, groups))(boxes, scores)
    np.testing.assert_array_equal(keep[0], alone)


@pytest.mark.parametrize("method", METHODS)
def test_shards_are_independent_and_checked(method):
    # `valid` and the groups are replicated across devices, boxes and scores are sharded.
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    boxes, scores, _, groups = map(jnp.asarray, draw(6))

    def one(boxes, scores):
        return nms(boxes, scores, jnp.ones(SIZE, bool), 0.5, groups, method=method)

    spec = jax.sharding.PartitionSpec("data")
    mapped = jax.shard_map(jax.vmap(one), mesh=mesh, in_specs=spec, out_specs=spec)
    inputs = jnp.stack([boxes, boxes[::-1]]), jnp.stack([scores, scores])
    np.testing.assert_array_equal(jax.jit(mapped)(*inputs), jax.jit(jax.vmap(one))(*inputs))


@pytest.mark.parametrize("groups", [None, 3], ids=["one_group", "groups"])
def test_all_forms_agree_on_real_sizes(groups):
    rng = np.random.default_rng(0)
    boxes, scores = clustered_boxes(rng, 700, 60), rng.random(700).astype(np.float32)
    valid = jnp.arange(700) < 650
    group = None if groups is None else jnp.asarray(rng.integers(0, groups, 700), jnp.int32)
    loop, fixpoint, blocked, auto = (
        np.asarray(
            jax.jit(lambda b, s, m=m: nms(b, s, valid, 0.6, group, method=m))(
                jnp.asarray(boxes), jnp.asarray(scores)
            )
        )
        for m in METHODS
    )
    assert 100 < loop.sum() < 650
    np.testing.assert_array_equal(fixpoint, loop)
    np.testing.assert_array_equal(blocked, loop)
    np.testing.assert_array_equal(auto, loop)


jit_nms = jax.jit(nms)


def test_equality_with_the_threshold_does_not_suppress():
    for top in range(1, 20):
        exact = Fraction(top, 20)
        boxes = jnp.array([[0.0, 0, 20, 1], [0, 0, top, 1]])  # IoU is top / 20
        keep = jit_nms(boxes, jnp.array([1.0, 0.5]), jnp.array([True, True]), float(exact))
        assert keep.all(), exact


jit_topk = jax.jit(nms_topk, static_argnums=4)


@pytest.mark.parametrize("k", [5, 60])
@given(seed=SEEDS)
def test_topk_lists_survivors_best_first(k, seed):
    boxes, scores, valid, groups = draw(seed)
    args = tuple(map(jnp.asarray, (boxes, scores, valid)))
    index, listed = map(np.asarray, jit_topk(*args, 0.5, k, jnp.asarray(groups)))
    iou = overlaps(boxes, boxes)
    keep = oracle(lambda i, j: iou[i, j] > 0.5, scores, valid, groups)
    want = sorted(np.flatnonzero(keep), key=lambda i: (-scores[i], i))[:k]
    assert listed.sum() == len(want) and listed[: len(want)].all()
    np.testing.assert_array_equal(index[listed], want)
    assert not index[~listed].any()


def test_no_boxes_and_nothing_to_differentiate():
    keep = nms(jnp.zeros((0, 4)), jnp.zeros(0), jnp.zeros(0, bool), 0.5)
    assert keep.shape == (0,)
    index, listed = nms_topk(jnp.zeros((0, 4)), jnp.zeros(0), jnp.zeros(0, bool), 0.5, 3)
    assert index.tolist() == [0, 0, 0] and not listed.any()
    boxes = jnp.asarray(EDGE_BOXES)
    scores = jnp.arange(len(EDGE_BOXES), dtype=jnp.float32)

    def total(boxes, scores):
        keep = nms(boxes, scores, jnp.ones(len(EDGE_BOXES), bool), 0.5)
        return jnp.sum(jnp.where(keep, scores, 0.0))

    by_boxes, by_scores = jax.jit(jax.grad(total, argnums=(0, 1)))(boxes, scores)
    assert not np.asarray(by_boxes).any() and set(by_scores.tolist()) <= {0.0, 1.0}


def test_unknown_methods_are_refused():
    one = jnp.zeros((1, 4)), jnp.zeros(1), jnp.ones(1, bool)
    with pytest.raises((ValueError, TypeError), match="method"):
        nms(*one, 0.5, method="greedy")  # pyright: ignore[reportArgumentType]
