"""Reports memory, kernels, loops and communication of a compiled program."""

import collections
import dataclasses
from collections.abc import Iterable
from typing import Any

import jax

from segjax.aot import hlo

# Scheduled instructions that launch no kernel: names for values, control flow, and waiting.
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
# A fusion that consists only of these instructions just moves data.
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
LARGEST = 8  # number of buffers to report
LARGE_MOVE = 2**20  # minimum size in bytes of reported copies


@dataclasses.dataclass(frozen=True)
class Memory:
    """Memory use of a program, in bytes on each device.

    Attributes:
      arguments: size of parameters, optimizer state and batch.
      outputs: size of the results.
      aliased: size of the outputs that overwrite arguments.
      temporaries: size of intermediate results.
      code: size of the program itself, if the compiler reports it.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        """Peak memory while the program runs."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Loop:
    """A loop of a program.

    Attributes:
      owner: module that the loop belongs to.
      trips: number of iterations. None if it depends on data; on a GPU, the host then waits for
        the device before every iteration.
      depth: number of enclosing loops.
    """

    owner: str
    trips: int | None
    depth: int


@dataclasses.dataclass(frozen=True)
class Item:
    """A group of similar parts of a program, such as buffers or collectives.

    Attributes:
      kind: type such as "bf16[2,200,336,256]", or operation such as "all-reduce".
      owner: module that the parts belong to.
      count: number of parts.
      bytes: size of the largest part.
    """

    kind: str
    owner: str
    count: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class ProgramReport:
    """A program compiled for a target.

    Attributes:
      what: name of the program, such as "train", "predict" or "maps".
      target: name of the target.
      jaxlib: version of the compiler.
      per_device: number of images on each device.
      canvas: (height, width) of the padded images.
      dtype: compute dtype of the model; several joined by "+" if modules differ.
      seconds: time to lower and compile.
      memory: memory use on each device.
      available: bytes that a program can use on each device.
      flops: operations on each device; None if the compiler does not report them.
      bytes_accessed: memory traffic on each device; None if the compiler does not report it.
      kernels: number of instructions that a device runs, counting those in loops once.
      loops: all loops of the program.
      collectives: communication between devices.
      buffers: largest results in the schedule.
      products: number of matrix products and convolutions.
      float32_products: products with float32 operands.
      moves: kernels that only move data, of 1 MiB or more.
      notes: differences from the program that a run on the device would compile.
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
        """True if the program fits into device memory."""
        return self.memory.total <= self.available

    @property
    def unknown_loops(self) -> int:
        """Number of loops without a known number of iterations."""
        return sum(loop.trips is None for loop in self.loops)

    def to_json(self) -> dict[str, Any]:
        """Converts to JSON-serialisable values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ProgramReport":
        """Inverts `to_json`."""
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
    """Computes the fields of a `ProgramReport` that depend on the compiled program.

    Args:
      compiled: program compiled for real or compile-only devices.
      program: parsed text of the program.
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
    """Returns operations and bytes accessed; None if the compiler does not report them."""
    try:
        cost: Any = compiled.cost_analysis()
    except (NotImplementedError, jax.errors.JaxRuntimeError):
        return None, None
    if not cost:
        return None, None
    return cost.get("flops"), cost.get("bytes accessed")


def _collectives(program: hlo.Program, scheduled: list[hlo.Instruction]) -> tuple[Item, ...]:
    # On GPUs, a collective can be the only instruction of an asynchronous computation.
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
    """Groups items of the same kind and owner, largest first."""
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    largest: dict[tuple[str, str], int] = {}
    for kind, owner, size in found:
        counts[kind, owner] += 1
        largest[kind, owner] = max(size, largest.get((kind, owner), 0))
    items = [Item(*key, count, largest[key]) for key, count in counts.items()]
    return tuple(sorted(items, key=lambda item: (-item.bytes, item.kind, item.owner)))
