"""Runs the training step on one device, on a mesh, or under pmap.

`jit` (one device) and `shard_map` are the recommended modes. `pmap` is in maintenance mode in JAX
and only supported because users ask for it. In all modes the state is replicated, every device
gets a run of consecutive images of the batch, and the axis "data" is bound.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PRNGKeyArray

from segjax.train.state import TrainState
from segjax.train.step import Metrics, Step
from segjax.types import Batch

AXIS = "data"
Mode = Literal["jit", "shard_map", "pmap"]
CompiledStep = Callable[[TrainState, Batch, PRNGKeyArray], tuple[TrainState, Metrics]]
BATCH_FIELDS = tuple(field.name for field in dataclasses.fields(Batch))


@dataclasses.dataclass(frozen=True)
class Devices:
    """Devices of a run, and the mode in which the step runs on them.

    Attributes:
      mode: "jit" (one device), "shard_map" or "pmap".
      devices: JAX devices, in the order of their shares of the batch.
    """

    mode: Mode
    devices: tuple[Any, ...]

    @property
    def mesh(self) -> Mesh:
        """The devices as a `("data",)` mesh."""
        # Gradients of gathers fail with explicit axis types, the default.
        return jax.make_mesh(
            (len(self.devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=self.devices
        )

    @property
    def local(self) -> tuple[Any, ...]:
        """The devices of this process."""
        return tuple(d for d in self.devices if d.process_index == jax.process_index())

    @property
    def processes(self) -> int:
        """Number of processes that the devices belong to."""
        return len({device.process_index for device in self.devices})

    def replicate(self, tree: Any) -> Any:
        """Puts a copy of every array on every device; all processes must give the same arrays."""
        sharding = NamedSharding(self.mesh, P())
        if self.processes == 1:
            return jax.device_put(tree, sharding)
        return jax.tree.map(functools.partial(_everywhere, sharding), tree)

    def put_batch(self, arrays: Mapping[str, np.ndarray]) -> Batch:
        """Splits a host batch over the devices.

        Args:
          arrays: fields of `Batch`, each [B, ...], of this process's part of the batch; fields
            with a default are optional. Other entries are ignored.

        Raises:
          ValueError: if the images cannot be split equally over the devices.
        """
        self.check_batch_size(len(arrays["images"]) * self.processes)
        sharding = NamedSharding(self.mesh, P(AXIS))
        put = functools.partial(jax.make_array_from_process_local_data, sharding)
        return Batch(**{name: put(arrays[name]) for name in BATCH_FIELDS if name in arrays})

    def check_batch_size(self, images: int, accumulate: int = 1) -> None:
        """Checks that the devices, and the parts of a step, can share a batch equally.

        Args:
          images: number of images of all processes.
          accumulate: number of parts in which a device takes its images.

        Raises:
          ValueError: if they cannot.
        """
        if images % len(self.devices):
            raise ValueError(
                f"a batch of {images} images cannot be split over {len(self.devices)} devices:"
                " choose a multiple with --data.batch-size, or fewer devices with --num-devices"
            )
        if images // len(self.devices) % accumulate:
            raise ValueError(
                f"{images // len(self.devices)} images a device cannot be split into {accumulate}"
                " micro-batches: choose another --accumulate or --data.batch-size"
            )


class Vote:
    """Agreement of all processes on whether to stop, without waiting for the device.

    A process that stops alone would leave the others waiting for it. Each call sends a flag to all
    devices, and returns what all together sent in the call before, which has arrived meanwhile.
    """

    def __init__(self, devices: Devices) -> None:
        self._sharding = NamedSharding(devices.mesh, P(AXIS))
        self._local = len(devices.local)
        self._sum = jax.jit(jnp.sum, out_shardings=NamedSharding(devices.mesh, P()))
        self._pending: jax.Array | None = None

    def __call__(self, flag: bool) -> bool:
        """Sends this process's flag; returns True if any process had sent one before."""
        before, flags = self._pending, np.full(self._local, flag, np.int32)
        self._pending = self._sum(jax.make_array_from_process_local_data(self._sharding, flags))
        return before is not None and bool(np.asarray(before))


def _everywhere(sharding: NamedSharding, array: Any) -> jax.Array:
    """Makes an array of all processes out of the copy that each has."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        data = _everywhere(sharding, jax.random.key_data(array))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def choose_devices(mode: Literal["auto", "jit", "shard_map", "pmap"], number: int = 0) -> Devices:
    """Selects the devices of a run and the mode to run them in.

    Args:
      mode: "auto" selects "shard_map" on several devices and "jit" on one.
      number: number of devices; 0 for all of them, or for one with "jit".

    Raises:
      ValueError: if there are not enough devices, or more than one is requested for "jit".
    """
    devices = jax.devices()
    if number > len(devices):
        raise ValueError(f"num_devices is {number}, but there are only {len(devices)}: {devices}")
    if jax.process_count() > 1:
        return _of_all_processes(mode, number, devices)
    if mode == "jit" and number > 1:
        raise ValueError(f'parallel="jit" runs on one device, but num_devices is {number}')
    if mode == "jit":
        number = 1
    devices = devices[: number or len(devices)]
    if mode == "auto":
        mode = "jit" if len(devices) == 1 else "shard_map"
    return Devices(mode, tuple(devices))


def _of_all_processes(mode: str, number: int, devices: Sequence[Any]) -> Devices:
    """Picks the devices of a run of several processes: all, on one mesh."""
    if mode in ("jit", "pmap"):
        raise ValueError(
            f'parallel="{mode}" runs in one process, and there are {jax.process_count()}: leave it'
            ' "auto"'
        )
    if number not in (0, len(devices)):
        raise ValueError(
            f"num_devices is {number}, but a run of several processes uses all {len(devices)}"
            " devices: leave it out"
        )
    # Rows of the global batch are in the order of the processes, and so are the devices.
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Devices("shard_map", tuple(ordered))


def compile_step(step: Step, devices: Devices, on_trace: Callable[[Batch], None]) -> CompiledStep:
    """Compiles a step for the devices. The input state is donated.

    Args:
      step: step from `segjax.train.step.make_step`.
      devices: devices from `choose_devices`.
      on_trace: called with a batch of tracers at each compilation, for example to count them.

    Returns:
      (state, batch, key) -> (state, metrics), for arrays placed by `devices`.
    """

    def traced(state: Any, batch: Any, key: Any, axis_name: str | None) -> Any:
        on_trace(batch)
        return step(state, batch, key, axis_name)

    # A single device needs no psum. Its mesh still binds the axis, which synchronised batch
    # normalisation refers to.
    per_device = functools.partial(traced, axis_name=None if devices.mode == "jit" else AXIS)
    if devices.mode == "pmap":
        mapped = jax.pmap(
            per_device,
            axis_name=AXIS,
            in_axes=(None, 0, None),
            out_axes=None,  # pyright: ignore[reportArgumentType]
            donate_argnums=0,
            devices=devices.devices,
        )
        return lambda state, batch, key: mapped(state, jax.tree.map(_one_row_a_device, batch), key)
    # With check_vma=False, gradients of the replicated parameters stay local to each device. The
    # step sums them itself, exactly as under pmap.
    mapped = jax.shard_map(
        per_device,
        mesh=devices.mesh,
        in_specs=(P(), P(AXIS), P()),
        out_specs=P(),
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=0, compiler_options=_compiler_options(devices))


# XLA combines gradients into all-reduces of at most this many bytes. With its default of 30 MiB,
# a Mask R-CNN with 44 million parameters needs seven of them.
GRADIENT_PIECE = 256 * 2**20


def _compiler_options(devices: Devices) -> dict[str, str] | None:
    if len(devices.devices) == 1 or devices.devices[0].platform != "gpu":
        return None
    return {"xla_gpu_all_reduce_combine_threshold_bytes": str(GRADIENT_PIECE)}


def _one_row_a_device(array: jax.Array) -> jax.Array:
    """Reshapes [B, ...], split over D devices, to [D, B / D, ...] for pmap without copying."""
    rows = [shard.data[None] for shard in array.addressable_shards]
    sharding = array.sharding
    devices = len(sharding.device_set)
    shape = (devices, array.shape[0] // devices, *array.shape[1:])
    return jax.make_array_from_single_device_arrays(shape, sharding, rows)
