"""Long runs use no more memory, files, threads or device arrays at the end than after a while."""

import dataclasses
import os
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from segjax.train import loop
from segjax.train.loop import train
from tests.support.distributed_run import config_of


def resident():
    """Resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def shared_blocks():
    return len(os.listdir("/dev/shm"))


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize(("workers", "steps"), [(0, 3000), (2, 1000)])
def test_nothing_grows(tmp_path, monkeypatch, workers, steps):
    samples = []

    class Watching(loop.Progress):
        def report(self, step, metrics):
            samples.append(
                (
                    step,
                    resident(),
                    len(os.listdir("/proc/self/fd")),
                    threading.active_count(),
                    len(jax.live_arrays()),
                    shared_blocks(),
                )
            )

    monkeypatch.setattr(loop, "Progress", Watching)
    config = config_of(tmp_path, workdir=str(tmp_path / "run"), num_devices=1)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, num_workers=workers),
        steps=steps,
        log_every=10,
        eval_every=50,
        checkpoint_every=25,
        keep_last=2,
        num_pictures=0,
    )
    results = train(config)
    assert results.compilations == 1
    found = np.array(samples[len(samples) // 3 :])
    step, memory, files, threads, arrays, blocks = found.T
    slope = np.polyfit(step, memory, 1)[0]
    assert slope < 1024, f"{slope:.0f} bytes a step"
    for name, values in (("files", files), ("threads", threads), ("arrays", arrays)):
        half = len(values) // 2
        assert values[half:].max() <= values[:half].max() + 2, name
    assert blocks[-1] <= blocks[0] + 8
