"""Two processes train, evaluate, stop and fail together. Each process has two devices."""

import contextlib
import json
import math
import shutil
import signal
import socket
import time

import jax
import numpy as np
import pytest

from segjax import distributed
from segjax.train.checkpoint import Checkpoints
from segjax.train.loop import train
from segjax.train.runs import load_run
from tests.support import fakes
from tests.support.distributed_run import config_of, evaluated, start

TOY = ("tests.support.toy",)


def free_port():
    with socket.socket() as opened:
        opened.bind(("localhost", 0))
        return opened.getsockname()[1]


def output(folder, index):
    return (folder / f"output_{index}.txt").read_text()


@contextlib.contextmanager
def processes(folder, count=2, different=None, **changes):
    """Starts processes, of which the last can have a different config; kills what is left."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    started = []
    try:
        for index in range(count):
            own = {**changes, **(different or {})} if index == count - 1 else changes
            started.append(start(index, folder, port=port, count=count, **own))
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def records(folder, name):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line[name]) for line in lines if name in line]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The folder of a run of two processes."""
    folder = tmp_path_factory.mktemp("pair")
    with processes(folder, workdir=str(folder / "run")) as started:
        statuses = [process.wait(120) for process in started]
    assert statuses == [0, 0], output(folder, 0) + output(folder, 1)
    return folder


@pytest.fixture(scope="module")
def alone(pair):
    """The same run in one process with four devices."""
    return train(config_of(pair, workdir=str(pair / "alone"), num_devices=4))


def close(found, expected):
    scale = max(float(np.abs(expected).max()), 1e-30)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * scale)


def test_two_processes_train_as_one(pair, alone):
    found, expected = records(pair / "run", "loss"), records(alone.workdir, "loss")
    assert [step for step, _ in found] == list(range(1, 11))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for name in ("truncated", "dropped_degenerate", "nonfinite_steps", "box/AP"):
        assert records(pair / "run", name) == records(alone.workdir, name)
    run = load_run(pair / "run", trust=TOY)
    jax.tree.map(close, run.variables, alone.variables)


def test_one_process_writes(pair, alone):
    def names(folder):
        return sorted(path.name for path in folder.iterdir())

    assert names(pair / "run") == names(alone.workdir)
    assert names(pair / "run/checkpoints") == ["10", "5"]
    assert names(pair / "run/pictures") == names(alone.workdir / "pictures")
    assert "step 10/10" in output(pair, 0)
    assert "step 10/10" not in output(pair, 1)
    results = [json.loads(output(pair, i).splitlines()[-1]) for i in range(2)]
    assert results[0]["compilations"] == results[1]["compilations"] == 1


@pytest.mark.parametrize("devices", [1, 4])
def test_another_number_of_devices_goes_on(pair, alone, tmp_path, devices):
    folder = tmp_path / "run"
    shutil.copytree(pair / "run", folder)
    shutil.rmtree(folder / "checkpoints/10")
    resumed = train(config_of(pair, workdir=str(folder), num_devices=devices))
    np.testing.assert_allclose(
        records(folder, "loss")[5:], records(alone.workdir, "loss")[5:], rtol=1e-6
    )
    jax.tree.map(close, resumed.variables, alone.variables)


@pytest.mark.nightly
def test_four_processes_go_on(pair, alone, tmp_path):
    shutil.copytree(pair / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/10")
    for name in ("shapes", "cache"):
        shutil.copytree(pair / name, tmp_path / name)
    with processes(tmp_path, 4, devices=1, workdir=str(tmp_path / "run")) as started:
        assert [process.wait(120) for process in started] == [0] * 4, output(tmp_path, 0)
    np.testing.assert_allclose(
        records(tmp_path / "run", "loss"), records(alone.workdir, "loss"), rtol=1e-6
    )


@pytest.fixture(scope="module")
def shared_evaluation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    fakes.write_folder(folder / "fakes")
    with processes(folder, evaluate={}) as started:
        assert [process.wait(120) for process in started] == [0, 0], output(folder, 1)
    results = [json.loads(output(folder, i).splitlines()[-1]) for i in range(2)]
    return folder, results


@pytest.mark.parametrize("devices", [1, 2])
def test_every_detection_is_gathered_once(shared_evaluation, devices):
    folder, results = shared_evaluation
    one = evaluated(folder, share=(0, 1), devices=jax.devices()[:devices])
    assert one["metrics"]["segm/AP"] > 0.8
    for found in results:
        np.testing.assert_equal(found["metrics"], one["metrics"])  # NaN equals NaN

        def key(entry):
            return entry["image_id"], -entry["score"], entry["category_id"]

        assert sorted(found["detections"], key=key) == sorted(one["detections"], key=key)


def test_processes_that_differ_are_named_by_all(tmp_path):
    different = {"seed": 3, "data": {"batch_size": 8}}
    with processes(tmp_path, workdir=str(tmp_path / "run"), different=different) as started:
        assert [process.wait(60) for process in started] == [1, 1]
    for index in range(2):
        text = output(tmp_path, index)
        assert "--seed (process 0: 0, process 1: 3)" in text
        assert "--data.batch_size (process 0: 4, process 1: 8)" in text
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").glob("*.json*"))


def wait_for(folder, text):
    until = time.monotonic() + 60
    while text not in output(folder, 0):
        assert time.monotonic() < until, output(folder, 0)
        time.sleep(0.05)


@pytest.fixture
def endless(tmp_path):
    """A run that does not end by itself."""
    changes = {"workdir": str(tmp_path / "run"), "steps": 10**6, "eval_every": 0}
    with processes(tmp_path, **changes) as started:
        wait_for(tmp_path, "step 20/")
        yield tmp_path, started


@pytest.mark.nightly
def test_a_signal_to_one_stops_both_at_the_same_step(endless):
    folder, started = endless
    started[1].send_signal(signal.SIGTERM)
    assert [process.wait(30) for process in started] == [0, 0]
    step = json.loads((folder / "run/preempted.json").read_text())["step"]
    for index in range(2):
        assert f"stopped and saved at step {step} of" in output(folder, index)
    with Checkpoints(folder / "run", read_only=True) as checkpoints:
        assert checkpoints.newest_good() == step


@pytest.mark.nightly
def test_a_lost_process_ends_the_other_which_names_it(endless):
    folder, started = endless
    started[1].kill()
    begin = time.monotonic()
    assert started[0].wait(20) != 0
    assert time.monotonic() - begin < 20
    # By heartbeats, or earlier by a collective that fails; JAX then waits for process 1 in vain.
    words = (
        "tasks are unhealthy (stopped sending heartbeats):\n1\n",
        "timed out task names:\n1\n",
    )
    assert any(text in output(folder, 0) for text in words), output(folder, 0)


@pytest.mark.nightly
def test_a_process_that_fails_ends_the_other(tmp_path):
    begin = time.monotonic()
    with processes(tmp_path, workdir=str(tmp_path / "run"), different={"workdir": ""}) as started:
        assert all(process.wait(30) for process in started)
    assert time.monotonic() - begin < 30
    assert "workdir is not set" in output(tmp_path, 1)


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, None),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None),  # the shell of sbatch
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "1"}, "Slurm"),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU"),
        ({"JOB_COMPLETION_INDEX": "0", "JAX_NUM_PROCESSES": "8"}, "Kubernetes"),
    ],
)
def test_launchers_are_recognised(environment, name):
    assert distributed.in_cluster(environment) == name


def test_a_place_is_given_whole_or_not_at_all():
    distributed.Cluster()
    with pytest.raises(ValueError, match="give all three"):
        distributed.Cluster("host:1", 2)


def test_a_single_process_agrees_with_itself():
    value = {"a": [1, 0.1 + 0.2, None, "ü"]}
    assert distributed.gather(value) == [value]
    assert distributed.of_first(value) == value
    assert math.isclose(distributed.gather(0.1)[0], 0.1, rel_tol=0)
    distributed.check_equal({"a": "b"})
    distributed.barrier("here")
