"""Each batch has one canvas, an epoch has every image once, and a batch follows from its number."""

import collections

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segjax.data.plan import EvalPlan, TrainPlan, group_by_canvas


@given(st.lists(st.integers(0, 13), min_size=1, max_size=3), st.integers(1, 5), st.integers(0, 9))
def test_every_image_once_an_epoch(counts, batch_size, seed):
    if sum(counts) == 0:
        counts = [1]
    positions = np.arange(sum(counts), dtype=np.int64)
    canvas = np.repeat(np.arange(len(counts)), counts)
    groups = group_by_canvas(positions, canvas, len(counts))
    plan = TrainPlan(groups, batch_size, seed)
    epochs = 4 * batch_size
    total = sum(epochs * count // batch_size for count in counts)
    seen = collections.Counter()
    draws = set()
    for number in range(total):
        batch = plan[number]
        assert (canvas[batch.rows] == batch.canvas).all()
        seen.update(batch.rows.tolist())
        draws.update(batch.draws.tolist())
    # After whole epochs that fill every batch, nothing is left over.
    assert set(seen.values()) == {epochs}
    assert len(seen) == len(positions)
    assert len(draws) == total * batch_size


def test_what_an_epoch_leaves_over_comes_first_in_the_next():
    plan = TrainPlan([np.arange(5, dtype=np.int64)], 2, seed=3)
    rows = np.concatenate([plan[n].rows for n in range(5)])
    assert sorted(rows[:5]) == sorted(rows[5:]) == list(range(5))
    assert [plan.epoch_of(n) for n in range(6)] == [0, 0, 1, 1, 1, 2]


def test_epochs_and_seeds_differ():
    order = [
        np.concatenate(
            [TrainPlan([np.arange(50)], 10, seed)[n].rows for n in range(start, start + 5)]
        )
        for seed, start in ((0, 0), (0, 5), (1, 0), (0, 0))
    ]
    assert (order[0] == order[3]).all()
    assert (order[0] != order[1]).any()
    assert (order[0] != order[2]).any()


def test_processes_share_one_global_batch():
    groups = [np.arange(7, dtype=np.int64), np.arange(7, 20, dtype=np.int64)]
    whole = TrainPlan(groups, 6, seed=1)
    parts = [TrainPlan(groups, 6, 1, index, 3) for index in range(3)]
    for number in (0, 5, 1000):
        together = [part[number] for part in parts]
        assert {part.canvas for part in together} == {whole[number].canvas}
        np.testing.assert_array_equal(
            np.concatenate([p.rows for p in together]), whole[number].rows
        )
    with pytest.raises(ValueError, match="divide evenly"):
        TrainPlan(groups, 6, 1, 0, 4)


def test_far_batches_are_as_quick_as_near_ones():
    plan = TrainPlan([np.arange(70_000), np.arange(70_000, 118_000)], 16, seed=0)
    assert plan[10**9].rows.shape == (16,)
    with pytest.raises(IndexError):
        plan[-1]


def test_nothing_to_train_on():
    with pytest.raises(ValueError, match="no image to train on"):
        TrainPlan([np.zeros(0, np.int64)], 2, 0)


def test_evaluation_gives_each_image_once():
    plan = EvalPlan([np.arange(5), np.arange(5, 7)], 4)
    rows = [plan[n].rows.tolist() for n in range(len(plan))]
    assert rows == [[0, 1, 2, 3], [4, -1, -1, -1], [5, 6, -1, -1]]
    halves = [EvalPlan([np.arange(5)], 4, index, 2) for index in (0, 1)]
    assert [half[1].rows.tolist() for half in halves] == [[4, -1], [-1, -1]]
