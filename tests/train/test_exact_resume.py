"""A run that was stopped and continued is bitwise the one that was not, for every model."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.support.distributed_run import ROOT

CONFIG = '''
"""A run of a minute."""
from segjax.config import OptimConfig, TrainConfig
from segjax.optim import Constant, Warmup
from tests.support import tiny
from tests.support.knowing import data_config
from tests.test_tasks import tiny_panoptic

def get_config():
    data = data_config(FOLDER, num_workers=WORKERS, DATA)
    return TrainConfig(
        model=MODEL,
        data=data,
        optim=OptimConfig(learning_rate=0.01, schedule=Constant(), warmup=Warmup(steps=2)),
        steps=12, log_every=1, checkpoint_every=3, num_pictures=0, parallel="jit",
    )
'''
NONE = 'semantic="none", merge_things="no"'
MODELS = {
    "mask_rcnn": ("tiny.mask_rcnn(num_classes=0)", NONE),
    "cascade": ("tiny.cascade_mask_rcnn('mmdet', num_classes=0)", NONE),
    "htc": (
        "tiny.htc(num_classes=0).with_classes(pixels=0)",
        'semantic="panoptic", merge_things="no"',
    ),
    "panoptic": ("tiny_panoptic()", 'semantic="panoptic"'),
}
# Fields that say how fast it went.
SPEEDS = ("time", "images_per_second", "steps_per_second")


class Run:
    """Commands on one run's folder."""

    def __init__(self, folder, name, model, workers):
        self.folder = folder / name
        expression, data = MODELS[model]
        self.config = folder / f"{name}.py"
        text = CONFIG.replace("FOLDER", repr(str(folder / "data"))).replace("MODEL", expression)
        self.config.write_text(text.replace("DATA", data).replace("WORKERS", str(workers)))

    def start(self, steps=12):
        command = [sys.executable, "-m", "segjax", "train", "--config", str(self.config)]
        flags = ["--workdir", str(self.folder), f"--steps={steps}", "--trust", "tests"]
        cache = os.environ.get("SEGJAX_TEST_CACHE", str(ROOT / ".jax_cache"))
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "",
            "JAX_COMPILATION_CACHE_DIR": cache,
            "PYTHONPATH": str(ROOT),
        }
        return subprocess.Popen(
            [*command, *flags], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )

    def finish(self, steps=12):
        with self.start(steps) as process:
            text, _ = process.communicate(timeout=600)
        assert process.returncode == 0, text

    def stop(self, number, after):
        """Sends a signal after a step."""
        with self.start() as process:
            for line in process.stdout:
                if line.startswith(f"step {after}/"):
                    break
            time.sleep(0.05)
            process.send_signal(number)
            process.communicate(timeout=600)
        assert process.returncode == (0 if number == signal.SIGTERM else -number)

    def records(self):
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(n).items() if k not in SPEEDS} for n in lines]

    def arrays(self):
        folder = self.folder / "checkpoints/12"
        names = ("params", "collections", "opt_state")
        found = [name for name in names if (folder / name).is_dir()]
        with ocp.StandardCheckpointer() as reader:
            return {name: reader.restore(folder / name) for name in found}

    def place(self):
        return json.loads((self.folder / "checkpoints/12/data/metadata").read_text())["state"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory, request):
    """The run that was not stopped, for a model and a number of workers."""
    model, workers = request.param
    folder = tmp_path_factory.mktemp(f"{model}_{workers}")
    run = Run(folder, "straight", model, workers)
    run.finish()
    return folder, model, workers, run


@pytest.mark.nightly
@pytest.mark.parametrize(
    "straight",
    [(model, workers) for model in MODELS for workers in (0, 2)],
    indirect=True,
    ids=lambda value: f"{value[0]}-{value[1]}",
)
@pytest.mark.parametrize("how", ["normal", "SIGTERM", "SIGKILL"])
def test_a_continued_run_is_the_straight_one(straight, how):
    folder, model, workers, expected = straight
    run = Run(folder, how, model, workers)
    if how == "normal":
        run.finish(6)
    else:
        run.stop(signal.Signals[how], after=5)
    run.finish()
    jax.tree.map(np.testing.assert_array_equal, run.arrays(), expected.arrays())
    assert run.place() == expected.place()
    if how == "normal":  # its end at step 6 was scored
        found = [line for line in run.records() if "loss" in line]
        wanted = [line for line in expected.records() if "loss" in line]
        assert found == wanted
    else:
        assert run.records() == expected.records()
