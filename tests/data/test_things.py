"""Merging things into one class: tables, names and batches."""

import dataclasses

import numpy as np
import pytest

from segjax.data.config import DataConfig
from segjax.data.labels.stuffthingmaps import STUFF_NAMES
from segjax.data.pipeline import open_dataset, train_iterator
from segjax.data.things import merge_things
from tests.support.map_samples import make_everything


@pytest.fixture
def config(tmp_path):
    """Returns a config with scaling, flipping and padding."""
    return dataclasses.replace(
        make_everything(tmp_path), flip=True, resize="shortest_edge", short_side=(13, 40)
    )


def slow(label, is_thing, how):
    """Computes a merged label by counting the stuff classes before it."""
    if label >= len(is_thing) or how == "no":
        return label
    before = sum(not thing for thing in is_thing[:label])
    if is_thing[label]:
        return 0 if how == "first" else sum(not thing for thing in is_thing)
    return before + (how == "first")


@pytest.mark.parametrize("how", ["no", "first", "last"])
@pytest.mark.parametrize("seed", range(4))
def test_tables_count_stuff_in_its_order(how, seed):
    rng = np.random.default_rng(seed)
    is_thing = tuple(bool(b) for b in rng.random(int(rng.integers(1, 255))) < 0.5)
    names = tuple(f"class {i}" for i in range(len(is_thing)))
    found, table = merge_things(names, is_thing, how)
    assert table.dtype == np.uint8
    assert table.tolist() == [slow(label, is_thing, how) for label in range(256)]
    for label, name in enumerate(names):
        merged = is_thing[label] and how != "no"
        assert found[table[label]] == ("things" if merged else name)


def test_the_peers_orders():
    """Detectron2 has things 0, stuff 1..S; MMDetection has stuff 0..S-1, things S."""
    names, is_thing = ("person", "car", "sky", "tree"), (True, True, False, False)
    first, table = merge_things(names, is_thing, "first")
    assert first == ("things", "sky", "tree")
    assert table[[0, 1, 2, 3, 255]].tolist() == [0, 0, 1, 2, 255]
    last, table = merge_things(names, is_thing, "last")
    assert last == ("sky", "tree", "things")
    assert table[[0, 1, 2, 3, 255]].tolist() == [2, 2, 0, 1, 255]


@pytest.mark.parametrize(
    ("semantic", "how", "names"),
    [
        ("panoptic", "first", ("things", "sky")),
        ("panoptic", "last", ("sky", "things")),
        ("instances", "first", ("things", "other")),
        ("instances", "last", ("other", "things")),
        ("stuffthingmaps", "first", ("things", *STUFF_NAMES[91:])),
        ("stuffthingmaps", "last", (*STUFF_NAMES[91:], "things")),
    ],
)
def test_batches_and_truth_hold_the_merged_labels(config, semantic, how, names):
    plain = dataclasses.replace(config, semantic=semantic)
    merged = dataclasses.replace(plain, merge_things=how)
    before, dataset = open_dataset(plain), open_dataset(merged)
    assert dataset.semantic_names == names
    assert (before.fingerprint, dataset.fingerprint) == (before.fingerprint,) * 2
    things = [i for i, name in enumerate(before.semantic_names) if name not in names]
    assert len(things) in (2, 91)
    with (
        train_iterator(before, plain, seed=0) as first,
        train_iterator(dataset, merged, seed=0) as second,
    ):
        for _ in range(3):
            old, new = next(first)["gt_semantic"], next(second)["gt_semantic"]
            is_thing = np.isin(old, things)
            assert (new[is_thing] == names.index("things")).all()
            np.testing.assert_array_equal(new[old == 255], 255)
            for label in np.unique(old[~is_thing & (old != 255)]):
                assert (new[old == label] == names.index(before.semantic_names[label])).all()
    for number, labels in before.semantic_labels("val").items():
        truth = dataset.semantic_labels("val")[number]
        np.testing.assert_array_equal(truth, dataset.label_table[labels])


def test_merging_needs_to_know_the_things(config):
    with pytest.raises(ValueError, match='merge_things="last" needs to know which classes are thi'):
        DataConfig(semantic="folder", merge_things="last")
    with pytest.raises(ValueError, match="do not say which classes are things"):
        merge_things(("a", "b"), (), "first")
    panoptic = dataclasses.replace(config, semantic="panoptic", merge_things="first")
    dataset = open_dataset(panoptic)
    other = dataclasses.replace(panoptic, merge_things="last")
    words = 'opened with merge_things="first", the iterator wants "last"'
    with pytest.raises(ValueError, match=words):
        train_iterator(dataset, other, seed=0)
    with (
        train_iterator(dataset, panoptic, seed=0) as batches,
        train_iterator(open_dataset(other), other, seed=0) as others,
        pytest.raises(ValueError, match="things last"),
    ):
        others.set_state(batches.get_state())


def test_nothing_is_merged_where_there_are_no_labels(config):
    bare = dataclasses.replace(config, merge_things="first")
    dataset = open_dataset(bare)
    assert (dataset.semantic_names, dataset.merge_things) == ((), "no")
    with train_iterator(dataset, bare, seed=0) as batches:
        assert "gt_semantic" not in next(batches)
