"""Target devices for ahead-of-time compilation."""

import dataclasses
import math
import os
import re
from typing import Any, Literal

GIB = 2**30
Platform = Literal["tpu", "cuda", "cpu"]


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of device.

    Attributes:
      name: name in `segjax compile --target`.
      platform: platform of the compiler.
      memory: bytes that a program can use. For TPUs, the HBM without the part that libtpu
        reserves. For GPUs, three quarters of the memory, which is JAX's default share
        (XLA_PYTHON_CLIENT_MEM_FRACTION).
      gpu: XLA's description of a GPU (fields of `GpuDeviceInfoProto`); {} for other devices.
      description: device name as reported by a GPU.
    """

    name: str
    platform: Platform
    memory: int
    gpu: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    description: str = ""


def _gpu(name: str, description: str, capability: tuple[int, int], **own: Any) -> Chip:
    # Limits that are the same for compute capabilities 8.0 to 9.0.
    fields = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 49152,
        "threads_per_core_limit": 2048,
        "fpus_per_core": 128,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
        "cuda_compute_capability": {"major": capability[0], "minor": capability[1]},
        **own,
    }
    return Chip(name, "cuda", fields["device_memory_size"] * 3 // 4, fields, description)


_H100 = {
    "shared_memory_per_core": 233472,
    "shared_memory_per_block_optin": 232448,
    "core_count": 132,
    "l2_cache_size": 52428800,
    "clock_rate_ghz": 1.98,
}

CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", "tpu", int(15.75 * GIB)),
        Chip("v5p", "tpu", int(95.74 * GIB)),
        Chip("v6e", "tpu", int(31.25 * GIB)),
        _gpu(
            "h100",
            "NVIDIA H100 80GB HBM3",
            (9, 0),
            memory_bandwidth=3352320000000,
            device_memory_size=84942979072,
            **_H100,
        ),
        _gpu(
            "h200",
            "NVIDIA H200",
            (9, 0),
            memory_bandwidth=4800000000000,
            device_memory_size=151397597184,
            **_H100,
        ),
        _gpu(
            "a100",
            "NVIDIA A100-SXM4-80GB",
            (8, 0),
            shared_memory_per_core=167936,
            shared_memory_per_block_optin=166912,
            core_count=108,
            fpus_per_core=64,
            l2_cache_size=41943040,
            clock_rate_ghz=1.41,
            memory_bandwidth=2039040000000,
            device_memory_size=85100068864,
        ),
        _gpu(
            "l4",
            "NVIDIA L4",
            (8, 9),
            shared_memory_per_core=102400,
            shared_memory_per_block_optin=101376,
            threads_per_core_limit=1536,
            core_count=58,
            l2_cache_size=50331648,
            clock_rate_ghz=2.04,
            memory_bandwidth=300096000000,
            device_memory_size=int(22.05 * GIB),
        ),
    )
}


@dataclasses.dataclass(frozen=True)
class Target:
    """One or more devices of the same kind.

    Attributes:
      chip: kind of device.
      topology: grid of TPU chips, such as (4, 4); (n,) for n GPUs or CPU devices.
    """

    chip: Chip
    topology: tuple[int, ...]

    @property
    def num_devices(self) -> int:
        """Number of devices."""
        return math.prod(self.topology)

    @property
    def name(self) -> str:
        """Name of the target, as for `parse_target`."""
        if self.num_devices == 1:
            return self.chip.name
        return f"{self.chip.name}:{'x'.join(map(str, self.topology))}"


def parse_target(text: str) -> Target:
    """Parses the name of a target.

    Args:
      text: kind of device, optionally with a colon and the number of devices: "h100", "h100:8",
        "cpu:4". TPUs have a topology instead of a number: "v5e:4x4", "v5p:2x2x1".

    Raises:
      ValueError: for an unknown kind of device, or a malformed topology.
    """
    name, colon, count = text.partition(":")
    chips = CHIPS | {"cpu": Chip("cpu", "cpu", _memory_here())}
    if name not in chips:
        raise ValueError(f"target {text!r}: the kinds of devices are {', '.join(sorted(chips))}")
    chip = chips[name]
    axes = {"tpu": 3 if name == "v5p" else 2}.get(chip.platform, 1)
    wanted = "x".join("2" * axes) if axes > 1 else "8"
    if not colon:
        return Target(chip, (1,) * axes)
    topology = tuple(map(int, count.split("x"))) if re.fullmatch(r"\d+(x\d+)*", count) else ()
    if len(topology) != axes or min(topology) < 1:
        raise ValueError(f"target {text!r}: write how many as in {name}:{wanted}")
    return Target(chip, topology)


def _memory_here() -> int:
    """Returns the size of this machine's memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def gpu_target_config(chip: Chip) -> str:
    """Returns XLA's `GpuTargetConfigProto` of a GPU, in text format."""
    return "\n".join(
        [
            'platform_name: "CUDA"',
            f'device_description_str: "{chip.description}"',
            "dnn_version_info { major: 9 minor: 10 patch: 0 }",
            f"gpu_device_info {{ {_fields(chip.gpu)} }}",
        ]
    )


def _fields(values: dict[str, Any]) -> str:
    return " ".join(
        f"{name} {{ {_fields(value)} }}" if isinstance(value, dict) else f"{name}: {value}"
        for name, value in values.items()
    )


def compile_only_devices(target: Target) -> tuple[Any, ...]:
    """Returns devices to lower and compile for. Only CPU devices can run programs.

    Call this with JAX_PLATFORMS=cpu, so that JAX does not use any accelerator of this machine.

    Raises:
      ModuleNotFoundError: if the target's compiler is not installed; the message names the extra.
      RuntimeError: if the compiler rejects the topology.
    """
    import jax
    from jax.experimental import topologies

    kind = target.chip.platform
    here = jax.devices("cpu")  # also registers the plugins
    if kind == "cpu":
        return tuple(here[: target.num_devices])
    _check_installed(kind)
    if kind == "cuda":
        described = topologies.get_topology_desc(
            target.chip.name,
            "cuda",
            target_config=gpu_target_config(target.chip),
            topology=f"1x{target.num_devices}x1",
        )
        return tuple(described.devices)
    # By default, a host has four chips, so that a single chip needs explicit bounds.
    host = {"chips_per_host_bounds": [1, 1, 1]} if target.num_devices == 1 else {}
    topology = "x".join(map(str, target.topology))
    described = topologies.get_topology_desc(
        f"{target.chip.name}:{topology}", platform="tpu", **host
    )
    return tuple(described.devices)


def _check_installed(kind: Platform) -> None:
    """Raises a `ModuleNotFoundError` if a target's compiler is missing."""
    import importlib.util

    if kind == "tpu":
        extra, modules = "tpu", ["libtpu"]
    else:
        extra, modules = "aot", ["jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13"]
    for module in modules:
        try:
            if importlib.util.find_spec(module) is not None:
                return
        except ModuleNotFoundError:
            pass  # the package jax_plugins itself is missing
    raise ModuleNotFoundError(
        f"the compiler for {kind.upper()} is not installed: pip install 'segjax[{extra}]'"
    )
