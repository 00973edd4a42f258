import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.config import OptimConfig
from segjax.train.checkpoint import Checkpoints, merge_variables
from segjax.train.optim import make_optimizer
from segjax.train.state import TrainState, init_state, init_variables
from tests.train.toy import Toy


@pytest.fixture(scope="module")
def state():
    optimizer = make_optimizer(OptimConfig(), 10, ("stem",))
    return init_state(init_variables(Toy(), jax.random.key(0)), optimizer)


def at(state, step):
    params = jax.tree.map(lambda p: p + step, state.params)
    return TrainState(jnp.int32(step), params, state.batch_stats, state.opt_state)


def test_keeps_the_best_and_the_newest(tmp_path, state):
    scores = {1: 0.1, 2: 0.9, 3: math.nan, 4: 0.3, 5: None, 6: 0.2}
    with Checkpoints(tmp_path, "segm/AP", keep_last=2) as checkpoints:
        for step, score in scores.items():
            metrics = None if score is None else {"segm/AP": score, "box/AP": 0.0}
            checkpoints.save(at(state, step), {"next_index": step}, metrics)
        checkpoints.wait()
        assert checkpoints.steps == (2, 5, 6)
        assert (checkpoints.best_step, checkpoints.latest_step) == (2, 6)
    with Checkpoints(tmp_path, "segm/AP", keep_last=2) as again:
        assert (again.best_step, again.latest_step) == (2, 6)


@pytest.mark.parametrize("data_state", [{"next_index": 3, "epoch": [1, None]}, b"\x00\xff{", None])
def test_restores_every_bit_and_the_place_in_the_data(tmp_path, state, data_state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 3), data_state)
        restored, restored_data = checkpoints.restore(state)
        variables = checkpoints.restore_variables(jax.eval_shape(lambda: state.variables))
    assert restored_data == data_state
    jax.tree.map(np.testing.assert_array_equal, restored, at(state, 3))
    jax.tree.map(np.testing.assert_array_equal, variables, at(state, 3).variables)
    assert jax.tree.structure(restored) == jax.tree.structure(state)


def test_missing_checkpoints_are_named(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(FileNotFoundError, match="no checkpoint in"):
            checkpoints.restore(state)
        checkpoints.save(at(state, 4), None)
        with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 7 .*\[4\]"):
            checkpoints.restore(state, 7)


def test_another_model_is_refused(tmp_path, state):
    other = init_variables(Toy(features=4), jax.random.key(0))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 1), None)
        with pytest.raises(ValueError, match="shape"):
            checkpoints.restore_variables(other)


def test_weights_of_other_shapes_stay_fresh_and_are_named():
    fresh = init_variables(Toy(num_classes=5), jax.random.key(1))
    trained = init_variables(Toy(num_classes=3), jax.random.key(2))
    merged, kept = merge_variables(fresh, trained)
    assert sorted(kept) == ["params/head/bias", "params/head/kernel"]
    np.testing.assert_array_equal(
        merged["params"]["conv"]["kernel"], trained["params"]["conv"]["kernel"]
    )
    with pytest.raises(ValueError, match="no weight of this model"):
        merge_variables({"params": {"other": jnp.zeros(2)}}, trained)
