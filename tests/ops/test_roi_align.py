import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from segjax.ops import roi_align_adaptive as adaptive
from segjax.ops import roi_align_fixed as fixed
from segjax.ops.roi_align import RoIAlign, _place_regions, assign_levels
from tests.oracles import oracle_roi_align as roi_oracle
from tests.support.drawing import EDGE_BOXES

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = [(9, 12), (4, 6)]
STRIDES = (4, 8)
BATCH, REGIONS, CHANNELS, BINS = 2, 16, 3, 3
EXTENT = 48.0


@functools.partial(jax.jit, static_argnames=("ratio", "aligned"))
def pool_and_pull(features, rois, level, grad, *, ratio, aligned):
    """Returns pooled bins and the features' gradient, compiled as one program."""

    def pool(features):
        return RoIAlign(BINS, ratio, aligned)(features, rois, level, STRIDES)

    out, pull = jax.vjp(pool, features)
    return out, pull(grad)[0]


def draw(seed: int, dtype=np.float32):
    rng = np.random.default_rng(seed)
    features = [rng.normal(size=(BATCH, *s, CHANNELS)).astype(dtype) for s in SHAPES]
    rois = roi_oracle.some_rois(rng, (BATCH, REGIONS), EXTENT)
    level = rng.integers(0, len(SHAPES), (BATCH, REGIONS)).astype(np.int32)
    grad = rng.normal(size=(BATCH, REGIONS, BINS, BINS, CHANNELS)).astype(dtype)
    return features, rois, level, grad


def oracle(features, rois, level, grad, ratio, aligned):
    out = np.zeros(grad.shape)
    pulled = [np.zeros(f.shape) for f in features]
    for b, r in np.ndindex(*level.shape):
        index = level[b, r]
        cells = rois[b, r] * np.float32(1 / STRIDES[index])
        out[b, r] = roi_oracle.roi_align(features[index][b], cells, BINS, ratio, aligned)
        pulled[index][b] += roi_oracle.roi_align_transpose(
            grad[b, r], SHAPES[index], cells, ratio, aligned
        )
    return out, pulled


@pytest.mark.parametrize(
    ("ratio", "aligned"), [(0, False), (0, True), (1, True), (2, False), (2, True), (3, False)]
)
def test_values_and_gradients_are_the_oracles(ratio, aligned):
    @given(SEEDS)
    def check(seed):
        drawn = draw(seed)
        want, want_grads = oracle(*drawn, ratio, aligned)
        got, got_grads = pool_and_pull(*drawn, ratio=ratio, aligned=aligned)
        np.testing.assert_allclose(got, want, atol=1e-5)
        for g, w in zip(got_grads, want_grads, strict=True):
            np.testing.assert_allclose(g, w, atol=3e-5)

    check()


@pytest.mark.parametrize("aligned", [False, True])
def test_long_and_thin_boxes_are_exact(aligned):
    features, _, level, grad = draw(0)
    thin = [[0, 1, 480, 2], [1, 0, 2, 480], [-200, 3, 300, 3.5], [0, 0, 480, 480]]
    rois = np.tile(np.array(thin, np.float32), (BATCH, REGIONS // 4, 1))
    want, want_grads = oracle(features, rois, level, grad, 0, aligned)
    got, got_grads = pool_and_pull(features, rois, level, grad, ratio=0, aligned=aligned)
    np.testing.assert_allclose(got, want, atol=1e-5)
    for g, w in zip(got_grads, want_grads, strict=True):
        np.testing.assert_allclose(g, w, atol=3e-5)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 2])
def test_every_box_is_finite(ratio, aligned):
    features, rois, level, grad = draw(1)
    edges = EDGE_BOXES[:REGIONS]
    rois[:, : len(edges)] = edges
    rois[1, -1] = np.nan
    out, grads = pool_and_pull(features, rois, level, grad, ratio=ratio, aligned=aligned)
    assert np.isfinite(out).all()
    assert all(np.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("ratio", [0, 2])
def test_other_regions_and_images_change_nothing(ratio):
    features, rois, level, grad = draw(2)
    rois = np.abs(rois)
    others = rois.copy()
    others[:, REGIONS // 2 :] = np.resize(EDGE_BOXES, (BATCH, REGIONS // 2, 4))
    poisoned = [f.copy() for f in features]
    for f in poisoned:
        f[1] = np.nan
    kept = (0, slice(REGIONS // 2))
    grad[:, REGIONS // 2 :] = 0
    want, want_grads = pool_and_pull(features, rois, level, grad, ratio=ratio, aligned=True)
    got, got_grads = pool_and_pull(poisoned, others, level, grad, ratio=ratio, aligned=True)
    np.testing.assert_array_equal(got[kept], want[kept])
    for g, w in zip(got_grads, want_grads, strict=True):
        np.testing.assert_array_equal(g, w)


@pytest.mark.parametrize("ratio", [0, 2])
def test_bfloat16_features_accumulate_in_float32(ratio):
    features, rois, level, grad = draw(3, jnp.bfloat16)
    rois[:] = rois[:1, :1]  # every region adds to the same cells
    rois[:], level[:], grad[:] = [8, 8, 24, 24], 0, 1
    wide = [f.astype(np.float32) for f in features]
    want, want_grads = pool_and_pull(
        wide, rois, level, grad.astype(np.float32), ratio=ratio, aligned=True
    )
    got, got_grads = pool_and_pull(features, rois, level, grad, ratio=ratio, aligned=True)
    assert got.dtype == jnp.bfloat16 and got_grads[0].dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, want.astype(jnp.bfloat16))
    np.testing.assert_array_equal(got_grads[0], want_grads[0].astype(jnp.bfloat16))


@pytest.mark.parametrize("ratio", [0, 2])
def test_gradients_agree_with_differences_and_rois_get_none(ratio):
    features, rois, level, _ = draw(4)
    pool = RoIAlign(BINS, ratio, True)
    align = jax.jit(lambda f, r: pool(f, r, jnp.asarray(level), STRIDES))
    check_grads(lambda *f: align(list(f), rois), features, order=1, modes=["rev"], rtol=1e-2)
    assert not jax.grad(lambda r: align(features, r).sum())(jnp.asarray(rois)).any()


def test_all_forms_are_equal():
    features, rois, level, grad = draw(5)
    flat = jnp.concatenate([f.reshape(-1, CHANNELS) for f in features])
    zeros = jnp.zeros_like(flat)
    grad = jnp.asarray(grad.reshape(-1, BINS, BINS, CHANNELS))
    rois, level = jnp.asarray(rois), jnp.asarray(level)
    place = functools.partial(_place_regions, SHAPES, rois, level, STRIDES)
    regions, two = (place(ratio, BINS, True) for ratio in (0, 2))
    scatter = jax.jit(adaptive.backward_scatter, static_argnums=3)
    rows = jax.jit(adaptive.backward_rows, static_argnums=3)
    pooled = [jax.jit(adaptive.forward, static_argnums=2)(flat, regions, n) for n in (5, 99)]
    pulled = [scatter(zeros, regions, grad, n) for n in (5, 99)]
    pulled += [rows(zeros, regions, grad, block) for block in (1, 4)]
    fixed_pulled = [
        jax.jit(form, static_argnums=3)(zeros, two, grad, 2)
        for form in (fixed.backward_scatter, fixed.backward_rows)
    ]
    for group in (pooled, pulled, fixed_pulled):
        for form in group[1:]:
            np.testing.assert_allclose(form, group[0], atol=1e-5)


def test_maps_of_one_cell():
    feature = jnp.full((1, 1, 1, 2), 3.0)
    rois = jnp.asarray([[[0.0, 0.0, 8.0, 8.0], [-40.0, 0.0, -24.0, 8.0]]])
    align = RoIAlign(2, 0, True)
    level = jnp.zeros((1, 2), jnp.int32)

    def total(feature):
        return align([feature], rois, level, [8]).sum()

    value, grad = jax.jit(jax.value_and_grad(total))(feature)
    assert value == 2 * 2 * 2 * 3.0
    np.testing.assert_allclose(grad, 4.0)


def test_no_regions_and_levels_out_of_range():
    features, rois, level, _ = draw(6)
    align = jax.jit(functools.partial(RoIAlign(BINS, 2, False), strides=STRIDES))
    none = align(features, rois[:, :0], level[:, :0])
    assert none.shape == (BATCH, 0, BINS, BINS, CHANNELS)
    clipped = align(features, rois, np.full_like(level, 9))
    np.testing.assert_array_equal(
        clipped, align(features, rois, np.full_like(level, len(SHAPES) - 1))
    )


@pytest.mark.parametrize("ratio", [0, 2])
def test_in_shard_map(ratio):
    features, rois, level, grad = draw(7)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    local = functools.partial(pool_and_pull.__wrapped__, ratio=ratio, aligned=True)
    data = jax.P("data")
    sharded = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=data, out_specs=data))
    out, grads = sharded(features, rois, level, grad)
    want, want_grads = pool_and_pull(features, rois, level, grad, ratio=ratio, aligned=True)
    np.testing.assert_allclose(out, want, atol=1e-6)
    for g, w in zip(grads, want_grads, strict=True):
        np.testing.assert_allclose(g, w, atol=1e-5)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="output_size is 0"):
        RoIAlign(0, 2, True)
    with pytest.raises(ValueError, match="sampling_ratio is -1: give 0 for adaptive"):
        RoIAlign(7, -1, True)
    features, rois, level, _ = draw(8)
    with pytest.raises(ValueError, match="2 feature maps and 1 strides"):
        jax.jit(functools.partial(RoIAlign(3, 2, True), strides=[4]))(features, rois, level)
    with pytest.raises(Exception, match="caffe2"):  # from the type checks, if enabled
        assign_levels(jnp.asarray(rois), convention="caffe2")


def squares(*sides: float) -> np.ndarray:
    return np.array([[5, 5, 5 + s, 5 + s] for s in sides], np.float32)


@pytest.mark.parametrize("convention", ["torchvision", "detectron2", "mmdet"])
def test_levels_change_at_powers_of_two(convention):
    assign = jax.jit(functools.partial(assign_levels, convention=convention))
    sides = np.array([1, 55, 56, 111, 112, 223, 224, 447, 448, 5000])
    np.testing.assert_array_equal(assign(squares(*sides)), [0, 0, 0, 0, 1, 1, 2, 2, 3, 3])


@pytest.mark.parametrize("convention", ["torchvision", "detectron2", "mmdet"])
def test_levels_of_boxes_without_area_and_of_huge_ones(convention):
    levels = np.asarray(assign_levels(jnp.asarray(EDGE_BOXES), convention=convention))
    assert ((levels >= 0) & (levels <= 3)).all()
    empty = np.array([[3, 3, 3, 9], [9, 9, 3, 12]], np.float32)
    assert not assign_levels(jnp.asarray(empty), convention=convention).any()


def test_levels_where_the_peers_differ():
    # Just below 224: within 1e-6 of the level's logarithm, but not within 1e-8 of its ratio.
    near = squares(223.9999)
    near[:, 2:] = near[:, :2] + np.float32(224 * (1 - 6e-7))
    levels = {
        c: int(assign_levels(jnp.asarray(near), convention=c)[0])
        for c in ("torchvision", "detectron2", "mmdet")
    }
    assert levels == {"torchvision": 2, "detectron2": 1, "mmdet": 1}
