"""Bilinear resizing against a loop over pixels in float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segjax.ops.resize import interpolation_matrix, resize_bilinear, resize_corners_within
from tests.oracles.oracle_resize import oracle

SIDES = st.integers(1, 12)
# Up, down, mixed, by fractions, from and to single pixels, and unchanged.
CASES = [
    ((5, 7), (10, 14)),
    ((13, 9), (4, 5)),
    ((7, 5), (3, 11)),
    ((12, 20), (6, 10)),
    ((1, 1), (3, 4)),
    ((6, 8), (1, 1)),
    ((4, 1), (7, 3)),
    ((3, 2), (3, 2)),
    ((2, 6), (2, 3)),
    ((6, 2), (3, 2)),
]


@functools.partial(jax.jit, static_argnums=(1, 2))
def resize(x, size, align_corners):
    return resize_bilinear(x, size, align_corners=align_corners)


def draw(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("old", "new"), CASES)
def test_values_are_the_oracles(old, new, align_corners):
    x = draw((2, *old, 3))
    got = resize(x, new, align_corners)
    assert (got.shape, got.dtype) == ((2, *new, 3), jnp.float32)
    np.testing.assert_allclose(got, oracle(x, new, align_corners), rtol=1e-5, atol=1e-6)


@given(old=st.tuples(SIDES, SIDES), new=st.tuples(SIDES, SIDES), align_corners=st.booleans())
def test_values_are_the_oracles_for_any_sizes(old, new, align_corners):
    # Resizing is one matrix per axis; comparing these in float64 avoids a compilation.
    rows, columns = (
        interpolation_matrix(a, b, align_corners) for a, b in zip(old, new, strict=True)
    )
    x = draw((1, *old, 1))
    got = rows @ x[0, :, :, 0].astype(np.float64) @ columns.T
    np.testing.assert_allclose(got, oracle(x, new, align_corners)[0, :, :, 0], atol=1e-12)


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_gradient_is_the_transposed_map(align_corners):
    old, new = (3, 5), (7, 4)
    cells = math.prod(old)
    # The columns of the linear map: the response to each single pixel.
    columns = oracle(np.eye(cells).reshape(cells, *old, 1), new, align_corners)[..., 0]
    grad = draw((2, *new, 3), seed=1)
    x = draw((2, *old, 3))
    pulled = jax.vjp(lambda x: resize(x, new, align_corners), x)[1](grad)[0]
    wanted = np.einsum("nyx,byxc->bnc", columns, grad.astype(np.float64)).reshape(2, *old, 3)
    np.testing.assert_allclose(pulled, wanted, rtol=1e-5, atol=1e-5)


def test_the_same_size_changes_nothing():
    x = draw((2, 3, 4, 5))
    for align_corners in (False, True):
        np.testing.assert_array_equal(resize(x, (3, 4), align_corners), x)


def test_aligned_corners_keep_their_values_and_others_do_not():
    x = draw((1, 4, 6, 2))
    aligned, others = (np.asarray(resize(x, (7, 9), align)) for align in (True, False))
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        np.testing.assert_allclose(aligned[0][corner], x[0][corner], rtol=1e-6)
    assert np.abs(aligned - others).max() > 0.1
    # With square pixels, doubling puts no new centre on an old one, except at the rim.
    doubled = np.asarray(resize(x, (8, 12), False))
    np.testing.assert_allclose(doubled[0, 0, 0], x[0, 0, 0], rtol=1e-6)
    quarters = 0.75 * x[0, 0, :-1] + 0.25 * x[0, 0, 1:]
    np.testing.assert_allclose(doubled[0, 0, 1:-2:2], quarters, rtol=1e-5, atol=1e-6)


def test_bfloat16_stays_bfloat16():
    x = draw((1, 5, 6, 2))
    got = resize(jnp.asarray(x, jnp.bfloat16), (9, 4), True)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), oracle(x, (9, 4), True), atol=0.05)


@pytest.mark.parametrize("size", [(0, 4), (4, 0), (3, -1)])
def test_a_size_below_one_is_named(size):
    with pytest.raises(ValueError, match=rf"size is \({size[0]}, {size[1]}\): give a height"):
        resize_bilinear(jnp.zeros((1, 2, 2, 1)), size, align_corners=False)


def test_a_part_is_resized_as_if_it_were_alone():
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(3, 7, 9, 2)), jnp.float32)
    old = jnp.array([[7, 9], [4, 5], [1, 3]], jnp.int32)
    new = jnp.array([[12, 11], [8, 10], [2, 6]], jnp.int32)
    found = jax.jit(resize_corners_within, static_argnums=1)(x, (12, 11), old, new)
    for i, ((h, w), (p, q)) in enumerate(zip(old.tolist(), new.tolist(), strict=True)):
        alone = resize_bilinear(x[i : i + 1, :h, :w], (p, q), align_corners=True)
        np.testing.assert_allclose(found[i, :p, :q], alone[0], rtol=1e-5, atol=1e-6)


def test_bfloat16_weights_add_up_to_one():
    x = jnp.ones((1, 13, 7, 1), jnp.bfloat16)
    for align_corners in (False, True):
        found = resize_bilinear(x, (50, 41), align_corners=align_corners)
        assert found.dtype == jnp.bfloat16
        np.testing.assert_array_equal(np.asarray(found, np.float32), 1.0)


@pytest.mark.parametrize(
    ("old", "new"), [((5, 7), (10, 14)), ((13, 9), (4, 5)), ((9, 12), (25, 42))]
)
def test_bfloat16_maps_are_resized_with_exact_weights(old, new):
    """Two bfloat16 weights represent one float32 weight, so that only the maps are rounded."""
    x = jnp.asarray(draw((2, *old, 3)), jnp.bfloat16)
    got = resize(x, new, False)
    assert got.dtype == jnp.bfloat16
    wanted = oracle(np.asarray(x, np.float32), new, False)
    # Two roundings, between the axes and at the end: twice half a unit of 8 bits.
    np.testing.assert_allclose(np.asarray(got, np.float32), wanted, rtol=2**-7, atol=2**-8)
    flat = resize(jnp.full((1, *old, 1), 3.0, jnp.bfloat16), new, False)
    np.testing.assert_array_equal(np.asarray(flat, np.float32), 3.0)


def test_the_gradient_of_a_bfloat16_map_is_the_transposed_map():
    old, new = (6, 5), (11, 8)
    x, grad = (
        jnp.asarray(draw((2, *size, 3), seed), jnp.bfloat16) for seed, size in enumerate((old, new))
    )
    got = jax.vjp(lambda x: resize(x, new, True), x)[1](grad)[0]
    assert got.dtype == jnp.bfloat16
    rows, columns = (interpolation_matrix(a, b, True) for a, b in zip(old, new, strict=True))
    wanted = np.einsum("yh,byxc,xw->bhwc", rows, np.asarray(grad, np.float64), columns)
    # Sums of up to nine values of about 1, rounded to 8 bits between the axes and at the end.
    np.testing.assert_allclose(np.asarray(got, np.float64), wanted, rtol=2**-7, atol=2**-6)
