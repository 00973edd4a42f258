"""Memory, kernels, loops and communication of a compiled program, read from its text."""

import collections
import dataclasses
from collections.abc import Iterable
from typing import Any

import jax

from segjax.aot import hlo

# Instructions in the schedule that launch nothing: names of values, control flow, waiting.
_NO_KERNEL = frozenset(
    [
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "while",
        "conditional",
        "call",
        "after-all",
        "opt-barrier",
        "add-dependency",
        "partition-id",
        "replica-id",
        "async-start",
        "async-update",
        "async-done",
        "copy-done",
        "send",
        "recv",
        "send-done",
        "recv-done",
        "domain",
    ]
)
_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# A fusion of these instructions alone only moves values.
_MOVES = frozenset(
    [
        "parameter",
        "constant",
        "copy",
        "transpose",
        "bitcast",
        "reshape",
        "slice",
        "dynamic-slice",
        "concatenate",
        "pad",
        "broadcast",
        "tuple",
        "get-tuple-element",
    ]
)
LARGEST = 8  # buffers that a report lists
LARGE_MOVE = 2**20  # bytes from which on a copy is worth a line


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device.

    Attributes:
      arguments: parameters, optimizer and batch.
      outputs: results.
      aliased: bytes of outputs that are written over arguments.
      temporaries: intermediate results.
      code: the program itself, if the compiler reports it.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        """Peak while the program runs."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Loop:
    """A loop.

    Attributes:
      owner: the module it belongs to.
      trips: number of rounds. None if it depends on data; then a GPU's host waits for the device
        before every round.
      depth: number of loops around it.
    """

    owner: str
    trips: int | None
    depth: int


@dataclasses.dataclass(frozen=True)
class Item:
    """A group of similar parts of a program, such as buffers or collectives.

    Attributes:
      kind: a type such as "bf16[2,200,336,256]", or an operation such as "all-reduce".
      owner: the module they belong to.
      count: number of parts.
      bytes: size of the largest one.
    """

    kind: str
    owner: str
    count: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class ProgramReport:
    """A program compiled for a target.

    Attributes:
      what: "train", "predict" or "maps".
      target: name of the devices.
      jaxlib: version of the compiler.
      per_device: images on each device.
      canvas: (height, width) of the images.
      dtype: the model's compute dtype; several joined by "+" if its parts differ.
      seconds: time to lower and compile.
      memory: on each device.
      available: bytes that a program can use on each device.
      flops: operations on each device; None if the compiler does not report them.
      bytes_accessed: memory traffic on each device; None if the compiler does not report it.
      kernels: instructions that a device runs; those in a loop count once.
      loops: all of them.
      collectives: communication between devices.
      buffers: the largest results in the schedule.
      products: matrix products and convolutions.
      float32_products: the products with float32 operands.
      moves: kernels that only move data, a mebibyte or more.
      notes: what a run on the device would do differently.
    """

    what: str
    target: str
    jaxlib: str
    per_device: int
    canvas: tuple[int, int]
    dtype: str
    seconds: float
    memory: Memory
    available: int
    flops: float | None
    bytes_accessed: float | None
    kernels: int
    loops: tuple[Loop, ...]
    collectives: tuple[Item, ...]
    buffers: tuple[Item, ...]
    products: int
    float32_products: tuple[Item, ...]
    moves: tuple[Item, ...]
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """True if the program fits into a device's memory."""
        return self.memory.total <= self.available

    @property
    def unknown_loops(self) -> int:
        """Loops without a known number of rounds."""
        return sum(loop.trips is None for loop in self.loops)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ProgramReport":
        """The inverse of `to_json`."""
        items = ("collectives", "buffers", "float32_products", "moves")
        return cls(
            **values
            | {
                "canvas": tuple(values["canvas"]),
                "memory": Memory(**values["memory"]),
                "loops": tuple(Loop(**loop) for loop in values["loops"]),
                "notes": tuple(values["notes"]),
                **{name: tuple(Item(**item) for item in values[name]) for name in items},
            }
        )


def contents(compiled: jax.stages.Compiled, program: hlo.Program) -> dict[str, Any]:
    """Fields of a `ProgramReport` that follow from the compiled program.

    Args:
      compiled: compiled for real or compile-only devices.
      program: its parsed text.
    """
    scheduled = list(program.scheduled())
    flops, traffic = _cost(compiled)
    products = [i for i in program.instructions.values() if _is_product(i)]
    return {
        "memory": _memory(compiled),
        "flops": flops,
        "bytes_accessed": traffic,
        "kernels": sum(i.opcode not in _NO_KERNEL for i, _ in scheduled),
        "loops": tuple(
            Loop(hlo.owner(i.op_name), i.trip_count, depth)
            for i, depth in scheduled
            if i.opcode == "while"
        ),
        "collectives": _collectives(program, [i for i, _ in scheduled]),
        "buffers": _largest_buffers(i for i, _ in scheduled),
        "products": len(products),
        "float32_products": _float32(program, products),
        "moves": _moves(program, [i for i, _ in scheduled]),
    }


def _memory(compiled: jax.stages.Compiled) -> Memory:
    stats: Any = compiled.memory_analysis()
    return Memory(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
    )


def _cost(compiled: jax.stages.Compiled) -> tuple[float | None, float | None]:
    """Operations and bytes moved; None where the compiler keeps them to itself."""
    try:
        cost: Any = compiled.cost_analysis()
    except (NotImplementedError, jax.errors.JaxRuntimeError):
        return None, None
    if not cost:
        return None, None
    return cost.get("flops"), cost.get("bytes accessed")


def _collectives(program: hlo.Program, scheduled: list[hlo.Instruction]) -> tuple[Item, ...]:
    # On GPUs they may be the only instruction of an asynchronous computation.
    kinds = {name: kind for kind in _COLLECTIVES for name in (kind, f"{kind}-start")}
    return _grouped(
        (
            kinds[i.opcode],
            hlo.owner(i.op_name),
            sum(operand.bytes for operand in program.operands(i)),
        )
        for i in scheduled
        if i.opcode in kinds
    )


def _largest_buffers(scheduled: Iterable[hlo.Instruction]) -> tuple[Item, ...]:
    found = _grouped(
        (i.shape, hlo.owner(i.op_name), i.bytes)
        for i in scheduled
        if i.opcode not in _NO_KERNEL and not i.type.startswith("(")
    )
    return found[:LARGEST]


def _is_product(instruction: hlo.Instruction) -> bool:
    if instruction.opcode in ("dot", "convolution"):
        return True
    target = instruction.custom_call.lower()
    return any(name in target for name in ("gemm", "matmul", "$conv", "cublas", "onednn$"))


def _float32(program: hlo.Program, products: list[hlo.Instruction]) -> tuple[Item, ...]:
    return _grouped(
        (i.opcode, hlo.owner(i.op_name), i.bytes)
        for i in products
        if [operand.dtype for operand in program.operands(i)[:2]] == ["f32", "f32"]
    )


def _moves(program: hlo.Program, scheduled: list[hlo.Instruction]) -> tuple[Item, ...]:
    def only_moves(i: hlo.Instruction) -> bool:
        if i.opcode != "fusion":
            return i.opcode in ("copy", "copy-start", "transpose", "concatenate", "pad", "slice")
        inside = [part for name in i.called for part in program.computations[name]]
        return all(part.opcode in _MOVES for part in inside)

    return _grouped(
        (i.shape, hlo.owner(i.op_name), i.bytes)
        for i in scheduled
        if i.opcode not in _NO_KERNEL and i.bytes >= LARGE_MOVE and only_moves(i)
    )


def _grouped(found: Iterable[tuple[str, str, int]]) -> tuple[Item, ...]:
    """Alike items together, the largest first."""
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    largest: dict[tuple[str, str], int] = {}
    for kind, owner, size in found:
        counts[kind, owner] += 1
        largest[kind, owner] = max(size, largest.get((kind, owner), 0))
    items = [Item(*key, count, largest[key]) for key, count in counts.items()]
    return tuple(sorted(items, key=lambda item: (-item.bytes, item.kind, item.owner)))
