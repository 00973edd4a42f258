"""Several processes that train together: how they start, and what they tell each other.

All of this is JAX's own runtime (`jax.distributed`): a coordinator in process 0, heartbeats, and
collectives. Every function also works in a single process, without communication.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

# A process that sends no heartbeat for this long is taken for dead, and the others end. JAX's own
# default is 100 s.
HEARTBEAT_SECONDS = 10
# A process that ends waits this long for the others to end too, also after an error of its own.
SHUTDOWN_SECONDS = 5


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Place of this process among those of a run.

    Attributes:
      coordinator: "HOST:PORT" of process 0; None to take all three from the environment (Slurm,
        Open MPI, Kubernetes, TPU).
      num_processes: number of processes.
      process_id: number of this process, from 0.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None

    def __post_init__(self) -> None:
        given = (self.coordinator, self.num_processes, self.process_id)
        if any(value is None for value in given) and any(value is not None for value in given):
            raise ValueError(
                f"coordinator, num_processes and process_id are {given}: give all three, or none to"
                " take them from Slurm, Open MPI, Kubernetes or a TPU's environment"
            )


def in_cluster(environment: Mapping[str, str] = os.environ) -> str | None:
    """Recognises an environment that started several processes of one program.

    Args:
      environment: environment variables.

    Returns:
      Its name; None for a program that was started alone.
    """

    def number(name: str) -> int:
        text = environment.get(name, "")
        return int(text) if text.isdecimal() else 0

    # SLURM_NTASKS is also set in the shell of `salloc` and `sbatch`, which is one process.
    if number("SLURM_STEP_NUM_TASKS") > 1 and "SLURM_PROCID" in environment:
        return "Slurm"
    if number("OMPI_COMM_WORLD_SIZE") > 1:
        return "Open MPI"
    if len(environment.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1:
        return "TPU"
    if "JOB_COMPLETION_INDEX" in environment and number("JAX_NUM_PROCESSES") > 1:
        return "Kubernetes"
    return None


def start(cluster: Cluster) -> None:
    """Joins the other processes; must be called before JAX uses a device.

    Args:
      cluster: place of this process.

    Raises:
      ValueError: if the environment does not say what the place is.
      RuntimeError: if the others cannot be reached, or JAX has already started.
    """
    import jax

    if os.environ.get("JAX_PLATFORMS", "") == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        cluster.coordinator,
        cluster.num_processes,
        cluster.process_id,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=SHUTDOWN_SECONDS,
    )


def process_count() -> int:
    """Returns the number of processes."""
    import jax

    return jax.process_count()


def process_index() -> int:
    """Returns the number of this process, from 0."""
    import jax

    return jax.process_index()


def is_first() -> bool:
    """Returns True in the process that writes logs, configs and pictures."""
    return process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def gather(value: Any) -> list[Any]:
    """Collects a value from every process.

    Args:
      value: what JSON can hold.

    Returns:
      The values of all processes, in their order.
    """
    if process_count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(data.size))).reshape(-1)
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: data.size] = data
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [json.loads(bytes(row[:size])) for row, size in zip(rows, sizes.tolist(), strict=True)]


def of_first(value: Any) -> Any:
    """Returns process 0's value in every process; `value` is what JSON can hold."""
    return gather(value)[0]


def check_equal(facts: Mapping[str, str]) -> None:
    """Compares facts that must be the same in every process, such as a dataset's fingerprint.

    Args:
      facts: by name.

    Raises:
      ValueError: if they differ; it names facts, processes and values, in all processes alike.
    """
    everyone = gather(dict(facts))
    lines: list[str] = []
    for name in facts:
        values = [other.get(name) for other in everyone]
        if any(value != values[0] for value in values):
            told = ", ".join(f"process {i}: {value:.200}" for i, value in enumerate(values))
            lines.append(f"{name} ({told})")
    if lines:
        raise ValueError(
            f"the processes of this run do not agree on {'; '.join(lines)}: give all of them the"
            " same command, the same data and the same versions"
        )
