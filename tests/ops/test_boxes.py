import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from segjax.ops.boxes import (
    COORDINATE_LIMIT,
    DeltaCoder,
    box_area,
    clip_boxes,
    nonempty,
    pairwise_ioa,
    pairwise_iou,
)
from tests.support.drawing import (
    EDGE_BOXES,
    area,
    clustered_boxes,
    integer_boxes,
    intersection,
    overlaps,
)
from tests.support.examples import examples

SEEDS = st.integers(0, 2**32 - 1)
property_test = examples()

jit_iou, jit_ioa = jax.jit(pairwise_iou), jax.jit(pairwise_ioa)

CODERS = {
    "torchvision_rpn": DeltaCoder(),
    "detectron2_box_head": DeltaCoder((10.0, 10.0, 5.0, 5.0)),
    "mmdet_box_head": DeltaCoder((1 / 0.1, 1 / 0.1, 1 / 0.2, 1 / 0.2), symmetric_clamp=True),
}
jit_encode = jax.jit(lambda coder, b, a: coder.encode(b, a), static_argnums=0)
jit_decode = jax.jit(lambda coder, d, a: coder.decode(d, a), static_argnums=0)


def some_boxes(seed: int, count: int) -> np.ndarray:
    """Random boxes: half clustered, half with integer coordinates, some of these empty."""
    rng = np.random.default_rng(seed)
    half = count // 2
    return np.concatenate([clustered_boxes(rng, half, 3), integer_boxes(rng, count - half, 12)])


def finite_gradients(function, *args) -> None:
    """Checks that value and gradient of the sum are finite, without NaNs in intermediate steps."""
    with jax.debug_nans(True):
        value, grads = jax.jit(
            jax.value_and_grad(
                lambda *a: jnp.sum(function(*a) * 1e-6), argnums=tuple(range(len(args)))
            )
        )(*map(jnp.asarray, args))
    assert np.isfinite(value)
    for grad in grads:
        assert np.isfinite(grad).all()


# --- overlaps --------------------------------------------------------------------------


@property_test
@given(SEEDS)
def test_iou_equals_pair_by_pair(seed):
    a, b = some_boxes(seed, 12), some_boxes(seed + 1, 8)
    got = np.asarray(jit_iou(jnp.asarray(a), jnp.asarray(b)))
    np.testing.assert_allclose(got, overlaps(a, b), atol=1e-6)
    assert got.min() >= 0 and got.max() <= 1


@property_test
@given(SEEDS)
def test_ioa_equals_pair_by_pair(seed):
    a, b = some_boxes(seed, 12), some_boxes(seed + 1, 8)
    want = [[intersection(x, y) / area(x) if area(x) > 0 else 0.0 for y in b] for x in a]
    np.testing.assert_allclose(jit_ioa(jnp.asarray(a), jnp.asarray(b)), want, atol=1e-6)


@property_test
@given(SEEDS)
def test_iou_is_symmetric_and_batches(seed):
    a, b = jnp.asarray(some_boxes(seed, 12)), jnp.asarray(some_boxes(seed + 1, 8))
    both = jit_iou(jnp.stack([a, a + 3.0]), jnp.stack([b, b + 3.0]))
    assert both.shape == (2, 12, 8)
    np.testing.assert_array_equal(both[0], jit_iou(b, a).T)
    np.testing.assert_allclose(both[1], both[0], atol=2e-5)  # a common shift keeps the overlaps


def test_iou_of_edge_boxes():
    iou = np.asarray(jit_iou(jnp.asarray(EDGE_BOXES), jnp.asarray(EDGE_BOXES)))
    assert np.isfinite(iou).all() and iou.min() >= 0 and iou.max() <= 1
    assert iou[0, 0] == 1
    assert iou[6, 6] == 1  # 1e30 pixels wide: areas overflow float32, but the ratio does not
    for empty in (1, 2, 3, 4, 13):
        assert not iou[empty].any()


def test_nan_boxes_overlap_nothing_and_spoil_no_neighbour():
    boxes = EDGE_BOXES.copy()
    boxes[3] = np.nan
    spoilt = np.asarray(jit_iou(jnp.asarray(boxes), jnp.asarray(EDGE_BOXES)))
    clean = np.asarray(jit_iou(jnp.asarray(EDGE_BOXES), jnp.asarray(EDGE_BOXES)))
    assert not spoilt[3].any()
    np.testing.assert_array_equal(np.delete(spoilt, 3, 0), np.delete(clean, 3, 0))


@pytest.mark.parametrize("function", [pairwise_iou, pairwise_ioa])
def test_overlap_gradients_are_finite(function):
    finite_gradients(function, EDGE_BOXES, EDGE_BOXES[::-1].copy())


def test_area_of_edge_boxes():
    areas = np.asarray(box_area(jnp.asarray(EDGE_BOXES)))
    assert np.isfinite(areas).all()
    assert areas[0] == 200
    assert not areas[[1, 2, 3, 4, 13]].any()
    np.testing.assert_allclose(areas[6], COORDINATE_LIMIT**2, rtol=1e-6)
    finite_gradients(box_area, EDGE_BOXES)


def test_gradients_equal_differences():
    a = np.array([[0, 0, 10, 8], [3, 2, 9, 12]], np.float64)
    b = np.array([[2, 1, 11, 9.5], [20, 20, 30, 30], [4, 3, 6, 5]], np.float64)
    with jax.enable_x64(True):
        for function in (pairwise_iou, pairwise_ioa):
            check_grads(jax.jit(function), (jnp.asarray(a), jnp.asarray(b)), order=1, eps=1e-5)
        for coder in CODERS.values():
            check_grads(
                jax.jit(coder.encode), (jnp.asarray(a), jnp.asarray(b[1:])), order=1, eps=1e-5
            )
            deltas = coder.encode(jnp.asarray(a), jnp.asarray(b[1:]))
            check_grads(jax.jit(coder.decode), (deltas, jnp.asarray(b[1:])), order=1, eps=1e-5)


# --- clipping and filtering ------------------------------------------------------------


@property_test
@given(SEEDS)
def test_clip_keeps_boxes_inside_their_picture(seed):
    boxes = np.stack([some_boxes(seed, 10), some_boxes(seed + 1, 10)]) * 2 - 60
    sizes = np.random.default_rng(seed).integers(1, 100, (2, 2)).astype(np.int32)
    got = np.asarray(clip_boxes(jnp.asarray(boxes), jnp.asarray(sizes)))
    for image in range(2):
        height, width = sizes[image]
        want = np.clip(boxes[image], 0, [width, height, width, height])
        np.testing.assert_array_equal(got[image], want.astype(np.float32))


def test_clip_of_edge_boxes():
    size = jnp.array([50, 40], jnp.int32)
    clipped = np.asarray(clip_boxes(jnp.asarray(EDGE_BOXES), size))
    np.testing.assert_array_equal(clipped[7], [0, 0, 40, 50])
    np.testing.assert_array_equal(clipped, clip_boxes(jnp.asarray(EDGE_BOXES), size * 1.0))
    finite_gradients(lambda b: clip_boxes(b, size), EDGE_BOXES)


def test_nonempty_counts_the_limit_only_if_asked():
    boxes = jnp.array(
        [[0, 0, 1, 5], [0, 0, 1.5, 5], [0, 0, 5, 0.5], [5, 5, 0, 0], [0, 0, jnp.nan, 9]]
    )
    assert nonempty(boxes, 1.0).tolist() == [False, True, False, False, False]
    assert nonempty(boxes, 1.0, inclusive=True).tolist() == [True, True, False, False, False]
    assert nonempty(boxes).tolist() == [True, True, True, False, False]


# --- deltas ----------------------------------------------------------------------------


def oracle_encode(boxes: np.ndarray, anchors: np.ndarray, weights) -> np.ndarray:
    """Detectron2's Box2BoxTransform.get_deltas in float64."""
    out = []
    for box, anchor in zip(boxes.astype(np.float64), anchors.astype(np.float64), strict=True):
        width, height = box[2:] - box[:2]
        width_a, height_a = anchor[2:] - anchor[:2]
        x, y = (box[:2] + box[2:]) / 2
        x_a, y_a = (anchor[:2] + anchor[2:]) / 2
        deltas = [(x - x_a) / width_a, (y - y_a) / height_a]
        deltas += [np.log(width / width_a), np.log(height / height_a)]
        out.append(np.asarray(deltas) * weights)
    return np.array(out)


def oracle_decode(deltas: np.ndarray, anchors: np.ndarray, coder: DeltaCoder) -> np.ndarray:
    """Detectron2's apply_deltas and mmdet's delta2bbox in float64."""
    limit = np.log(1000 / 16)
    out = []
    for delta, anchor in zip(deltas.astype(np.float64), anchors.astype(np.float64), strict=True):
        dx, dy, dw, dh = delta / coder.weights
        dw, dh = min(dw, limit), min(dh, limit)
        if coder.symmetric_clamp:
            dw, dh = max(dw, -limit), max(dh, -limit)
        sides = anchor[2:] - anchor[:2]
        centre = (anchor[:2] + anchor[2:]) / 2 + np.array([dx, dy]) * sides
        half = sides * np.exp([dw, dh]) / 2
        out.append(np.concatenate([centre - half, centre + half]))
    return np.array(out)


def proper_boxes(seed: int, count: int = 16) -> np.ndarray:
    return clustered_boxes(np.random.default_rng(seed), count, 4)


@pytest.mark.parametrize("name", CODERS)
@property_test
@given(SEEDS)
def test_deltas_equal_the_peers(name, seed):
    coder = CODERS[name]
    boxes, anchors = proper_boxes(seed), proper_boxes(seed + 1)
    got = jit_encode(coder, jnp.asarray(boxes), jnp.asarray(anchors))
    want = oracle_encode(boxes, anchors, coder.weights)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-5)
    deltas = np.random.default_rng(seed).normal(0, 3, (16, 4)).astype(np.float32)
    deltas *= np.asarray(coder.weights, np.float32)  # sides reach both clamps
    got = jit_decode(coder, jnp.asarray(deltas), jnp.asarray(anchors))
    np.testing.assert_allclose(got, oracle_decode(deltas, anchors, coder), rtol=2e-5, atol=1e-3)


@pytest.mark.parametrize("name", CODERS)
@property_test
@given(SEEDS)
def test_decode_inverts_encode(name, seed):
    coder = CODERS[name]
    boxes, anchors = jnp.asarray(proper_boxes(seed)), jnp.asarray(proper_boxes(seed + 1))
    back = jit_decode(coder, jit_encode(coder, boxes, anchors), anchors)
    np.testing.assert_allclose(back, boxes, atol=1e-3)


def test_clamp_is_one_sided_or_symmetric():
    anchor = jnp.array([[0.0, 0, 100, 100]])
    shrink = jnp.array([[0.0, 0, -20, -20]])
    tv = DeltaCoder().decode(shrink, anchor)
    mm = DeltaCoder(symmetric_clamp=True).decode(shrink, anchor)
    assert tv[0, 2] - tv[0, 0] < 1e-4
    np.testing.assert_allclose(mm[0, 2] - mm[0, 0], 100 * 16 / 1000, rtol=1e-5)
    grown = DeltaCoder().decode(-shrink, anchor)
    np.testing.assert_allclose(grown[0, 2] - grown[0, 0], 100 * 1000 / 16, rtol=1e-5)


@pytest.mark.parametrize("name", CODERS)
def test_coding_of_edge_boxes_is_finite(name):
    coder = CODERS[name]
    first = np.repeat(EDGE_BOXES, len(EDGE_BOXES), axis=0)
    second = np.tile(EDGE_BOXES, (len(EDGE_BOXES), 1))
    finite_gradients(coder.encode, first, second)
    deltas = np.array([[0, 0, 0, 0], [9, -9, 50, -50], [1e30, -1e30, 1e30, -1e30]], np.float32)
    for delta in deltas:
        finite_gradients(coder.decode, np.tile(delta, (len(EDGE_BOXES), 1)), EDGE_BOXES)


def test_class_specific_deltas_broadcast():
    anchors, deltas = jnp.asarray(proper_boxes(0, 5)), jnp.full((5, 3, 4), 0.1)
    together = DeltaCoder().decode(deltas, anchors[:, None])
    np.testing.assert_allclose(
        together[:, 1], DeltaCoder().decode(deltas[:, 1], anchors), rtol=1e-6
    )


def test_wrong_coders_are_refused():
    with pytest.raises(ValueError, match="four positive"):
        DeltaCoder((1.0, 1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="max_ratio is 1"):
        dataclasses.replace(DeltaCoder(), max_ratio=1.0)
