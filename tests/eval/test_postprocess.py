import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_utils

from segjax.data import rle
from segjax.models import PanopticMerge
from segjax.ops.masks import paste_masks
from segjax.ops.soft_masks import BoxMasks
from segjax.results import mask_encoding, postprocess
from segjax.results.classes import Classes
from segjax.types import Detections
from tests.support.knowing import KnowingModel


def _detections(seed=0, batch=2, count=20, side=14, masked=True, padded=False):
    """Random detections in 150 x 130 images; some boxes reach outside."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-20, 120, (batch, count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 90, (batch, count, 2))], axis=-1)
    smooth = rng.random((batch, count, 1, 1)) * 0.4 + rng.random((batch, count, side, side)) * 0.6
    boxes, smooth = jnp.asarray(boxes, jnp.float32), jnp.asarray(smooth, jnp.float32)
    return Detections(
        boxes=boxes,
        scores=jnp.asarray(np.sort(rng.random((batch, count)))[:, ::-1], jnp.float32),
        classes=jnp.asarray(rng.integers(0, 3, (batch, count)), jnp.int32),
        valid=jnp.asarray(np.arange(count)[None] < np.array([[count - 3], [4]])),
        masks=BoxMasks(smooth, boxes, padded) if masked else None,
    )


@pytest.mark.parametrize("padded", [False, True])
def test_run_lengths_equal_pycocotools_of_the_full_pasted_mask(padded):
    detections = _detections(padded=padded)
    height, width = 150, 130
    found = postprocess.collect(detections, [(height, width)] * 2)
    for row in range(2):
        soft = paste_masks(
            detections.masks.probs[row], detections.boxes[row], height, width, padded=padded
        )
        binary = np.asarray(soft) > 0.5 if padded else np.asarray(soft) >= 0.5
        assert found[row].mask_rles is not None
        assert len(found[row].mask_rles) == int(detections.valid[row].sum())
        for mask, ours in zip(binary, found[row].mask_rles, strict=False):
            wanted = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
            assert ours == {"size": [height, width], "counts": wanted["counts"].decode()}


def test_the_threshold_counts_equality_as_the_peer_does():
    boxes = jnp.asarray([[[0, 0, 8, 8]]], jnp.float32)
    one = Detections(
        boxes=boxes,
        scores=jnp.ones((1, 1)),
        classes=jnp.zeros((1, 1), jnp.int32),
        valid=jnp.ones((1, 1), bool),
        masks=BoxMasks(jnp.full((1, 1, 4, 4), 0.5), boxes),
    )
    grid = postprocess.collect(one, [(8, 8)])[0]
    padded = dataclasses.replace(one, masks=dataclasses.replace(one.masks, padded=True))
    torchvision = postprocess.collect(padded, [(8, 8)])[0]
    assert grid.mask(0)[2:6, 2:6].all()
    assert not torchvision.mask(0).any()


def test_photos_of_many_sizes_share_programs():
    detections = _detections()
    mask_encoding._paste_bits.clear_cache()
    for size in ((120, 128), (100, 90), (128, 127), (97, 128)):
        postprocess.collect(detections, [size])
    assert mask_encoding._paste_bits._cache_size() == 2  # windows of 64 and 128 pixels


def test_large_windows_are_pasted_in_smaller_chunks(monkeypatch):
    detections = _detections()
    whole = postprocess.collect(detections, [(150, 130)])[0]
    monkeypatch.setattr(mask_encoding, "CHUNK_PIXELS", 3 * 64 * 64)
    parts = postprocess.collect(detections, [(150, 130)])[0]
    assert parts.mask_rles == whole.mask_rles


@pytest.mark.parametrize("seed", range(20))
def test_windows_give_the_run_lengths_of_the_whole_mask(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2)
    x0, x1 = np.sort(rng.integers(0, width + 1, 2))
    y0, y1 = np.sort(rng.integers(0, height + 1, 2))
    if seed % 2:  # full columns, so that runs continue from one column to the next
        y0, y1 = 0, height
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = rng.random((y1 - y0, x1 - x0)) < rng.choice([0.1, 0.5, 0.95, 1.0])
    window = np.ones((64, 64), bool)  # pixels beyond the region must not matter
    window[: y1 - y0, : x1 - x0] = mask[y0:y1, x0:x1]
    bits = np.packbits(window.T, axis=1)
    region = np.array([x0, y0, x1, y1], np.int32)
    found = mask_encoding.window_rle(bits, region, (int(height), int(width)))
    wanted = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert found == {"size": [height, width], "counts": wanted["counts"].decode()}


def test_boxes_are_scaled_per_axis_clipped_and_empty_ones_dropped():
    boxes = jnp.asarray([[[10, 20, 30, 40], [-5, -5, 500, 500], [50, 10, 60, 20]]], jnp.float32)
    none = jnp.zeros((1, 3))
    found = Detections(boxes, none, none.astype(jnp.int32), jnp.ones((1, 3), bool))
    found = postprocess.to_original(
        found, jnp.asarray([[80, 50]], jnp.int32), jnp.asarray([[40, 100]], jnp.int32)
    )
    boxes, valid = found.boxes, found.valid
    np.testing.assert_allclose(boxes[0, 0], [20, 10, 60, 20])
    np.testing.assert_allclose(boxes[0, 1], [0, 0, 100, 40])
    assert valid.tolist() == [[True, True, False]]


def test_rows_without_a_size_and_invalid_rows_are_left_out():
    found = postprocess.collect(_detections(), [(150, 130)])
    assert len(found) == 1
    assert len(found[0]) == 17
    assert (np.diff(found[0].scores) <= 0).all()


def test_threshold_and_limit():
    detections = _detections(masked=False)
    scores = np.asarray(detections.scores[0])
    found = postprocess.collect(detections, [(150, 130)], score_threshold=float(scores[5]))[0]
    np.testing.assert_array_equal(found.scores, scores[:5])
    assert found.mask_rles is None
    best = postprocess.collect(detections, [(150, 130)], max_detections=2)[0]
    np.testing.assert_array_equal(best.scores, scores[:2])


def test_empty_masks_and_no_detections():
    detections = _detections()
    outside = Detections(
        boxes=detections.boxes + 1000.0,
        scores=detections.scores,
        classes=detections.classes,
        valid=detections.valid,
        masks=dataclasses.replace(detections.masks, boxes=detections.boxes + 1000.0),
    )
    found = postprocess.collect(outside, [(150, 130)])[0]
    assert found.mask_rles is not None
    assert len(found.mask_rles) == 17
    assert all(rle.area(mask) == 0 for mask in found.mask_rles)
    none = postprocess.collect(outside, [(150, 130)], score_threshold=2.0)[0]
    assert (len(none), none.mask_rles) == (0, ())


# ---- Maps -----------------------------------------------------------------------------------


@given(st.integers(1, 10**4), st.integers(1, 10**4))
def test_canvases_hold_the_image_and_waste_little(height, width):
    canvas = postprocess.map_canvas(height, width)
    longer = max(canvas)
    for side, image in zip(canvas, (height, width), strict=True):
        assert image <= side
        assert side - image < longer / 4 or longer == postprocess.SMALLEST_CANVAS
    assert postprocess.map_canvas(*canvas) == canvas


def test_photos_share_canvases():
    assert postprocess.map_canvas(427, 640) == postprocess.map_canvas(480, 577) == (480, 640)
    assert postprocess.map_canvas(640, 427) == (640, 480)
    assert postprocess.map_canvas(3008, 4032) == postprocess.map_canvas(3000, 4000) == (3072, 4096)
    sides = range(500, 4000, 25)
    sizes = [(a, b) for a in sides for b in sides if b <= a <= 2 * b]
    assert len({postprocess.map_canvas(*size) for size in sizes}) < len(sizes) / 100


MAPS = {"padded_size": (64, 64), "canvas": (128, 128)}


def test_memory_of_maps_does_not_hold_all_masks_or_all_logits():
    side, count, classes = 1024, 100, 54
    shape = jax.ShapeDtypeStruct
    found = jax.eval_shape(
        lambda: Detections(
            boxes=jnp.zeros((1, count, 4)),
            scores=jnp.zeros((1, count)),
            classes=jnp.zeros((1, count), jnp.int32),
            valid=jnp.zeros((1, count), bool),
            masks=BoxMasks(jnp.zeros((1, count, 28, 28)), jnp.zeros((1, count, 4))),
            semantic_logits=jnp.zeros((1, 200, 272, classes)),
        )
    )
    size = shape((1, 2), jnp.int32)
    given = {"padded_size": (800, 1088), "canvas": (side, side)}
    model = KnowingModel(3, classes, PanopticMerge())
    lowered = postprocess.maps_original.lower(model, found, size, size, **given)
    temporary = lowered.compile().memory_analysis().temp_size_in_bytes
    assert temporary < 12 * 4 * side**2  # all masks take 100 times as much, all logits 54 times


@pytest.mark.parametrize("number", [255, 256, 300])
def test_more_classes_than_labels_are_refused(number):
    found = dataclasses.replace(
        _detections(batch=2, count=3),
        semantic_logits=jnp.zeros((2, 16, 16, number)).at[..., -1].set(1.0),
    )
    sizes = np.full((2, 2), 64, np.int32)
    if number == 255:
        maps = postprocess.maps_original(KnowingModel(3, number), found, sizes, sizes, **MAPS)
        assert (np.asarray(maps.semantic)[:, :64, :64] == 254).all()
        return
    with pytest.raises(ValueError, match=f"{number} classes, but labels are 8 bits and 255 marks"):
        postprocess.maps_original(KnowingModel(3, number), found, sizes, sizes, **MAPS)


def test_segments_know_their_instance():
    random = np.random.default_rng(1)
    given = _detections(batch=2, count=12)
    logits = random.normal(size=(2, 16, 16, 4)).astype(np.float32)
    shuffled = random.permutation(np.linspace(0.2, 0.9, 12, dtype=np.float32))
    given = dataclasses.replace(
        given,
        scores=jnp.stack([given.scores[0], jnp.asarray(shuffled)]),
        valid=jnp.ones((2, 12), bool),
        semantic_logits=jnp.asarray(logits),
    )
    model = KnowingModel(3, 4, PanopticMerge(0.1, 0.9, 1))
    sizes = [(120, 110), (128, 100)]
    maps = postprocess.maps_original(
        model, given, np.full((2, 2), 64, np.int32), np.array(sizes, np.int32), **MAPS
    )
    classes = Classes().named(model)
    limit = float(np.sort(shuffled)[5])
    for kwargs in ({}, {"score_threshold": limit}, {"max_detections": 4}):
        for found in postprocess.collect_results(model, given, maps, sizes, classes, **kwargs):
            assert_instances_are_theirs(found)
    without = postprocess.collect_maps(maps, sizes, classes)
    assert all(s.instance is None for _, found in without for s in found.segments)


def assert_instances_are_theirs(found):
    """Checks that every segment of a kept instance is part of its mask."""
    scores = found.instances.scores.tolist()
    things = [s for s in found.panoptic.segments if s.category.is_thing]
    assert [s.instance is None for s in things] == [s.score not in scores for s in things]
    inside = [s for s in things if s.instance is not None]
    assert len(inside) >= 2
    for segment in inside:
        assert scores[segment.instance] == segment.score
        name = found.instances.class_names[found.instances.classes[segment.instance]]
        assert segment.category.name == name
        assert not (found.panoptic.mask(segment.id) & ~found.instances.mask(segment.instance)).any()
    assert all(s.instance is None for s in found.panoptic.segments if not s.category.is_thing)
