"""Checkpoints survive SIGKILL at any moment."""

import multiprocessing
import random
import signal
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from segjax.train.checkpoint import Checkpoints
from segjax.train.manifest import differences
from segjax.train.state import TrainState

SIZE = 200_000


def state_at(step):
    """A state whose arrays say which step they are of."""
    full = {f"part{i}": np.full(SIZE, step + i, np.float32) for i in range(3)}
    return TrainState(
        step=jnp.int32(step), params=full, collections={}, opt_state={"count": jnp.int32(step)}
    )


def save_on_and_on(folder, told):
    """Continues from the newest checkpoint and saves every step, until it is killed."""
    with Checkpoints(folder, "score", keep_last=2) as checkpoints:
        newest = checkpoints.newest_good() or 0
        checkpoints.set_aside_broken()
        for step in range(newest + 1, newest + 1000):
            checkpoints.save(state_at(step), {"next": step}, {"score": float(step % 7)})
            told.value = step - 1  # `save` has waited for the step before


def kill_and_check(folder, number, seed):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.train.test_kills"])
    rng = random.Random(seed)
    told = context.Value("i", 0)
    for _ in range(number):
        before = told.value
        process = context.Process(target=save_on_and_on, args=(folder, told))
        process.start()
        while told.value == before and process.is_alive():
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        with Checkpoints(folder, "score", read_only=True) as found:
            newest = found.newest_good()
            assert newest is not None
            assert newest >= told.value, "a checkpoint that was complete is gone"
            assert all(not differences(folder / f"checkpoints/{step}") for step in found.steps)
            restored, place = found.restore(state_at(0), newest)
        assert place == {"next": newest}
        for name, value in restored.params.items():
            np.testing.assert_array_equal(value, newest + int(name[-1]))
    with Checkpoints(folder, "score", keep_last=2) as found:
        found.save(state_at(told.value + 2000), {}, None)
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    assert len(found.steps) <= 3  # two newest, and the best
    assert names == {str(step) for step in found.steps}, "something is left over"
    assert not (folder / "broken").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_kills_at_random_moments(tmp_path):
    kill_and_check(tmp_path, 25, 0)


@pytest.mark.nightly
def test_two_hundred_kills(tmp_path):
    kill_and_check(tmp_path, 200, 1)
