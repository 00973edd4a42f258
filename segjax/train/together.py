"""What the processes of a run do once, or compare, before and while they train."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from segjax.config import TrainConfig
from segjax.config_json import save_config, to_json
from segjax.data import pipeline
from segjax.data.config import DataConfig
from segjax.distributed import barrier, check_equal, gather, is_first
from segjax.results.classes import Classes
from segjax.train.checkpoint import Checkpoints
from segjax.train.classes import save_classes
from segjax.train.interrupts import MARKER
from segjax.train.metrics import RunLog
from segjax.train.runs import CONFIG_FILE, library_versions
from segjax.train.workdir import claimed

_PLACES = (
    "root",
    "cache_dir",
    "train_json",
    "val_json",
    "test_json",
    "image_root",
    "semantic_root",
)


def claimed_once(workdir: Path) -> contextlib.AbstractContextManager[None]:
    """Claims the folder of a run in the first process, as `segjax.train.workdir.claimed`."""
    return claimed(workdir) if is_first() else contextlib.nullcontext()


def open_once(data: DataConfig) -> pipeline.Dataset:
    """Opens the dataset; if it must be prepared, the first process does it and the others wait.

    Processes with a cache of their own then prepare their own copies.

    Args:
      data: names the dataset.

    Returns:
      The dataset.
    """
    if is_first():
        found = pipeline.open_dataset(data)
        barrier("data are prepared")
        return found
    barrier("data are prepared")
    return pipeline.open_dataset(data)


def check_processes(config: TrainConfig, dataset: pipeline.Dataset) -> None:
    """Checks that all processes train the same model on the same data.

    Batches follow from config and data, so that equal ones have the same shapes and number.

    Args:
      config: config of this process, resolved.
      dataset: dataset of this process.

    Raises:
      ValueError: if they differ; it names processes and values, in all processes alike.
    """
    sizes = {name: len(split.index) for name, split in dataset.splits.items()}
    facts = {
        "the images": str(sizes),
        "the fingerprint of the data": dataset.fingerprint,
        "the classes": ", ".join(dataset.class_names),
        "the versions": str(library_versions()),
    }
    fields = to_json(config)["fields"]
    # Each machine may have the data in a place of its own.
    data = {n: value for n, value in fields.pop("data")["fields"].items() if n not in _PLACES}
    facts |= {f"--{name}": json.dumps(value) for name, value in fields.items()}
    facts |= {f"--data.{name}": json.dumps(value) for name, value in data.items()}
    check_equal(facts)


def take_over(
    workdir: Path, config: TrainConfig, classes: Classes, checkpoints: Checkpoints, log: RunLog
) -> None:
    """Makes the folder this run's, in the first process; the others wait.

    Args:
      workdir: folder of the run.
      config: config of the run, resolved.
      classes: classes of its model.
      checkpoints: its checkpoints.
      log: lines so far.
    """
    if is_first():
        checkpoints.set_aside_broken()
        save_config(workdir / CONFIG_FILE, config, library_versions())
        save_classes(workdir, classes)
        (workdir / MARKER).unlink(missing_ok=True)
        log.keep(workdir / "log.txt")
    barrier("the folder is taken over")


class DroppedObjects:
    """Counts of objects that training skips, by cause.

    Args:
      before: counts of all processes in the steps before.
    """

    def __init__(self, before: Mapping[str, int]) -> None:
        self._before = dict(before)
        self._here = dict.fromkeys(before, 0)

    def add(self, host: Mapping[str, np.ndarray]) -> None:
        """Adds the counts of this process's part of a batch."""
        for cause in self._here:
            self._here[cause] += int(host[cause].sum())

    def total(self) -> dict[str, int]:
        """Returns the counts of all processes; all must ask at the same steps."""
        everyone = gather(self._here)
        return {c: n + sum(one[c] for one in everyone) for c, n in self._before.items()}
