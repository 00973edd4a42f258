import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segjax.ops.anchors import base_anchors, level_anchors, level_stride

RATIOS = (0.5, 1.0, 2.0)
ROOT = Path(__file__).parents[2]


def oracle(base: np.ndarray, shape: tuple[int, int], stride: tuple[int, int]) -> np.ndarray:
    """Every anchor, by three loops in float64."""
    out = []
    for row in range(shape[0]):
        for column in range(shape[1]):
            for box in base.astype(np.float64):
                out.append(box + np.array([column * stride[1], row * stride[0]] * 2))
    return np.array(out)


def test_shapes_are_torchvisions_when_rounded():
    # Printed by torchvision 0.29's AnchorGenerator for ((32,), (64,)) and (0.5, 1, 2).
    small = [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    large = [[-45, -23, 45, 23], [-32, -32, 32, 32], [-23, -45, 23, 45]]
    np.testing.assert_array_equal(base_anchors([32], RATIOS, rounded=True), small)
    np.testing.assert_array_equal(base_anchors([64], RATIOS, rounded=True), large)


def test_halves_round_to_even():
    # Half sides of 0.5, 1.5 and 2.5 pixels round to 0, 2 and 2.
    boxes = base_anchors([1, 3, 5], [1], rounded=True)
    np.testing.assert_array_equal(boxes[:, 2], [0, 2, 2])
    np.testing.assert_array_equal(boxes[:, 0], [0, -2, -2])


@given(
    st.lists(st.floats(1, 1000), min_size=1, max_size=3),
    st.lists(st.floats(0.1, 10), min_size=1, max_size=4),
)
def test_exact_shapes_have_the_size_and_ratio_asked_for(sizes, ratios):
    boxes = base_anchors(sizes, ratios, rounded=False).astype(np.float64)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    np.testing.assert_allclose(np.sqrt(width * height), np.tile(sizes, len(ratios)), rtol=1e-6)
    np.testing.assert_allclose(height / width, np.repeat(ratios, len(sizes)), rtol=1e-6)
    np.testing.assert_array_equal(boxes[:, :2], -boxes[:, 2:])


GRIDS = [((5, 7), (16, 16)), ((7, 5), (61, 64)), ((1, 1), (4, 4)), ((1, 9), (128, 1))]
jit_level_anchors = jax.jit(level_anchors, static_argnums=(1, 2))


@given(st.sampled_from(GRIDS), st.floats(1, 1000), st.booleans())
def test_grid_equals_three_loops(grid, size, rounded):
    base = base_anchors([size], RATIOS, rounded=rounded)
    got = np.asarray(jit_level_anchors(jnp.asarray(base), *grid))
    want = oracle(base, *grid)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-4)
    if rounded:
        np.testing.assert_array_equal(got, want)


def test_compiled_grid_is_exact_and_not_a_constant():
    base = base_anchors([32], RATIOS, rounded=True)
    compiled = jax.jit(lambda: level_anchors(base, (100, 168), (8, 8))).lower().compile()
    np.testing.assert_array_equal(compiled(), oracle(base, (100, 168), (8, 8)))
    # 50,400 anchors take 806 kB; the text of a program that embedded them would include them.
    assert len(compiled.as_text()) < 50_000


def test_stride_follows_the_shape_only_for_torchvision():
    assert level_stride((800, 1344), (13, 21), 64, from_shape=True) == (61, 64)
    assert level_stride((800, 1344), (13, 21), 64, from_shape=False) == (64, 64)
    # Multiples of 64 do not trigger the quirk.
    for level, shape in enumerate([(224, 320), (112, 160), (56, 80), (28, 40), (14, 20)]):
        nominal = 4 << level
        assert level_stride((896, 1280), shape, nominal, from_shape=True) == (nominal, nominal)


@pytest.mark.parametrize("wrong", [{"sizes": [], "ratios": [1]}, {"sizes": [32], "ratios": [0]}])
def test_wrong_shapes_are_refused(wrong):
    with pytest.raises(ValueError, match="at least one positive"):
        base_anchors(**wrong, rounded=False)


@pytest.mark.golden
def test_every_97th_anchor_is_torchvisions():
    with np.load(ROOT / "tests" / "goldens" / "tv_mask_rcnn_r50_fpn.npz") as golden:
        want, meta = golden["anchors_sample"], json.loads(str(golden["meta"]))
    padded = (meta["height"], meta["width"])
    levels = []
    for level, size in enumerate((32, 64, 128, 256, 512)):
        nominal = 4 << level
        shape = (-(-padded[0] // nominal), -(-padded[1] // nominal))
        stride = level_stride(padded, shape, nominal, from_shape=True)
        levels.append(level_anchors(base_anchors([size], RATIOS, rounded=True), shape, stride))
    np.testing.assert_array_equal(jnp.concatenate(levels)[::97], want)
