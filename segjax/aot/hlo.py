"""Parses the text of a compiled XLA program."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+\w*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"\b(?:calls|body|condition|to_apply|branch_computations|called_computations)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
_BITS = re.compile(r"\d+")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of a program.

    Attributes:
      name: name, unique in the program.
      opcode: XLA opcode, such as "fusion".
      type: type of the result, in XLA's notation.
      operands: names of the operands.
      attributes: text after the operands.
    """

    name: str
    opcode: str
    type: str
    operands: tuple[str, ...]
    attributes: str

    @functools.cached_property
    def bytes(self) -> int:
        """Total size in bytes of all arrays of the result."""
        return sum(_array_bytes(dtype, dims) for dtype, dims in _ARRAY.findall(self.type))

    @property
    def dtype(self) -> str:
        """Dtype of the result, or of its first array; "" if there is none."""
        found = _ARRAY.search(self.type)
        return found[1] if found else ""

    @property
    def shape(self) -> str:
        """Type of the result, or of its first array, without layout."""
        found = _ARRAY.search(self.type)
        return found[0] if found else self.type

    @property
    def op_name(self) -> str:
        """Path of names in the traced Python program; "" if XLA added the instruction."""
        found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.attributes)
        return found[1] if found else ""

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that the instruction runs or applies."""
        groups = _CALLED.findall(self.attributes)
        return tuple(name for group in groups for name in re.findall(r"[\w.\-]+", group))

    @property
    def trip_count(self) -> int | None:
        """Number of iterations of a loop; None if the compiler does not know it."""
        found = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', self.attributes)
        return int(found[1]) if found else None

    @property
    def custom_call(self) -> str:
        """Target of a custom call; "" for other instructions."""
        found = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program.

    Attributes:
      computations: instructions of each computation, by name.
      entry: name of the entry computation.
    """

    computations: Mapping[str, tuple[Instruction, ...]]
    entry: str

    @functools.cached_property
    def instructions(self) -> dict[str, Instruction]:
        """All instructions by name."""
        return {i.name: i for lines in self.computations.values() for i in lines}

    def operands(self, instruction: Instruction) -> list[Instruction]:
        """Returns the instructions whose results an instruction reads."""
        return [self.instructions[name] for name in instruction.operands]

    def scheduled(self) -> Iterator[tuple[Instruction, int]]:
        """Yields the instructions that the device runs, with the number of enclosing loops.

        Bodies of loops, branches and called computations are visited once each. The contents of
        fusions and reductions are skipped.
        """
        seen: set[str] = set()

        def walk(computation: str, depth: int) -> Iterator[tuple[Instruction, int]]:
            if computation in seen:
                return
            seen.add(computation)
            for instruction in self.computations[computation]:
                yield instruction, depth
                if instruction.opcode in _ENTERED:
                    inside = depth + (instruction.opcode == "while")
                    for name in instruction.called:
                        yield from walk(name, inside)

        yield from walk(self.entry, 0)


_ENTERED = frozenset({"while", "conditional", "call", "async-start"})


def parse(text: str) -> Program:
    """Parses `jax.stages.Compiled.as_text()`.

    Raises:
      ValueError: if there is no entry computation.
    """
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (found := _INSTRUCTION.match(line)):
            current.append(_instruction(found[1], found[2]))
    if not entry:
        raise ValueError(f"no ENTRY computation in a program of {len(text)} characters")
    return Program({name: tuple(lines) for name, lines in computations.items()}, entry)


def _instruction(name: str, rest: str) -> Instruction:
    """Parses `TYPE opcode(operands), attributes`."""
    # Types of tuples contain spaces and parentheses.
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    opcode = _OPCODE.match(rest, end)
    assert opcode is not None, rest[:200]
    closing = _closing(rest, opcode.end() - 1)
    inside = rest[opcode.end() : closing]
    literal = opcode[1] in ("constant", "parameter", "iota")
    operands = () if literal else tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(name, opcode[1], rest[:end], operands, rest[closing + 1 :])


def _closing(text: str, start: int) -> int:
    """Returns the position of the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError(f"no closing parenthesis in {text[:200]!r}")


def _array_bytes(dtype: str, dims: str) -> int:
    if dtype == "token":
        return 0
    cells = math.prod(int(n) for n in dims.split(",")) if dims else 1
    bits = _BITS.search(dtype)  # "pred" has no number, and takes a byte
    return math.ceil(cells * (int(bits[0]) if bits else 8) / 8)


def owner(op_name: str) -> str:
    """Returns the module or named scope of an operation, from its path of names.

    For `jit(step)/jvp(MaskRCNN.losses)/MaskRCNN.features/fpn/lateral5/dot_general`, this is
    `fpn/lateral5`. Returns the name of the operation outside all modules, and "" for operations
    added by XLA.
    """
    parts = [_unwrapped(part) for part in op_name.split("/") if part]
    modules = [part for part in parts[:-1] if not _NO_MODULE.search(part)]
    return "/".join(modules) or (parts[-1] if parts else "")


def _unwrapped(part: str) -> str:
    """Strips JAX transformations from a name: transpose(jvp(fpn)) becomes fpn."""
    while found := re.fullmatch(r"(?:jvp|transpose|vmap|pmap|checkpoint)\((.*)\)", part):
        part = found[1]
    return part


# Path components that are not modules: compiled functions such as jit(f), methods such as
# MaskRCNN.losses, and control flow.
_NO_MODULE = re.compile(
    r"[(.)]|^$|^(while|body|cond|closed_call|eval_jaxpr|branch_\d+_fun|checkpoint|rematted_computation"
    r"|custom_vjp_call.*|shard_map)$"
)
