"""Panoptic maps transferred from the device to the host."""

import jax.numpy as jnp
import numpy as np
import pytest

from segjax.data.segments import PanopticCategory
from segjax.ops.panoptic import PanopticDropped, PanopticSegments
from segjax.results.panoptic_collect import collect_panoptic
from segjax.results.panoptic_merge import Dropped

THINGS, LABELS = ("person", "dog"), ("things", "road", "sky")


def found(stuff_label=2):
    """Two of three instances and one kind of stuff, padded by one row and two columns."""
    ids = np.zeros((5, 8), np.int32)
    ids[:2, :6] = 3
    ids[1:3, 1:3] = 1
    ids[3, 4:6] = 2
    stuff_ids = np.zeros(3, np.int32)
    stuff_ids[stuff_label] = 3
    return PanopticSegments(
        ids=jnp.asarray(ids),
        segment_ids=jnp.asarray(np.array([1, 0, 2, *stuff_ids], np.int32)),
        classes=jnp.asarray(np.array([1, 0, 0, 0, 1, 2], np.int32)),
        is_thing=jnp.asarray(np.arange(6) < 3),
        scores=jnp.asarray(np.array([0.75, 0.7, 0.625, 0, 0, 0], np.float32)),
        dropped=PanopticDropped(*map(jnp.int32, range(1, 7))),
    )


def test_segments_get_their_names():
    made = collect_panoptic(found(), (4, 6), THINGS, LABELS)
    np.testing.assert_array_equal(made.ids, np.asarray(found().ids)[:4, :6])
    assert [(s.id, s.category.name, s.area, s.score) for s in made.segments] == [
        (1, "dog", 4, 0.75),
        (2, "person", 2, 0.625),
        (3, "sky", 10, None),
    ]
    assert made.dropped == Dropped(*range(1, 7))


def test_instances_are_places_among_those_given():
    for rows, places in (([0, 1, 2], [0, 2]), ([2, 0], [1, 0]), ([2], [None, 0]), ([], [None] * 2)):
        made = collect_panoptic(
            found(), (4, 6), THINGS, LABELS, instance_rows=np.array(rows, np.int64)
        )
        assert [s.instance for s in made.segments] == [*places, None]
    made = collect_panoptic(found(), (4, 6), THINGS, LABELS, instance_rows=np.arange(6))
    assert made.segments[-1].instance is None  # stuff has no instance, whatever its row


def test_categories_of_the_data_set():
    kinds = (
        PanopticCategory(1, "person", True),
        PanopticCategory(18, "dog", True),
        PanopticCategory(149, "road", False),
        PanopticCategory(187, "sky", False),
    )
    for names in (THINGS, ()):
        made = collect_panoptic(found(), (4, 6), names, LABELS, kinds)
        assert [s.category.id for s in made.segments] == [18, 1, 187]
        assert made.categories == kinds


def test_wrong_names_are_refused():
    with pytest.raises(ValueError, match=r"semantic class 0, which is no stuff.*'road', 'sky'"):
        collect_panoptic(found(stuff_label=0), (4, 6), THINGS, LABELS)
    with pytest.raises(ValueError, match="an instance is of class 1, there are 1 things"):
        collect_panoptic(found(), (4, 6), THINGS[:1], LABELS)
