"""Formats compile reports as text."""

from collections.abc import Iterable

from segjax.aot.compile import TooLarge
from segjax.aot.report import Item, Loop, ProgramReport
from segjax.aot.targets import GIB

SHOWN = 8  # maximum number of lines of each list


def lines(program: ProgramReport) -> list[str]:
    """Describes a compiled program: memory, work, loops, communication and buffers."""
    memory = program.memory
    parts = {
        "arguments": memory.arguments,
        "new results": memory.outputs - memory.aliased,
        "temporaries": memory.temporaries,
        "code": memory.code,
    }
    height, width = program.canvas
    found = [
        f"{program.what} for {program.target}: {program.per_device} images per device of"
        f" {height} x {width}, {program.dtype}, jaxlib {program.jaxlib},"
        f" compiled in {program.seconds:.0f} s",
        f"  memory per device {binary_size(memory.total)} of {binary_size(program.available)}: "
        + ", ".join(f"{name} {binary_size(size)}" for name, size in parts.items()),
    ]
    if program.flops is not None and program.bytes_accessed is not None:
        found.append(
            f"  work per device   {program.flops / 1e12:.3f} TFLOP,"
            f" {binary_size(int(program.bytes_accessed))} moved, by the compiler's count"
        )
    known = [loop for loop in program.loops if loop.trips is not None]
    found.append(
        f"  kernels           {program.kernels}, those in loops counted once;"
        f" {program.products} products, {_number(program.float32_products)} of float32"
    )
    found.append(f"  loops             {len(program.loops)}, {len(known)} of known length")
    found += _loops(program.loops)
    found += [f"  note              {note}" for note in program.notes]
    found += _list("float32 products", program.float32_products)
    found += _list("collectives", program.collectives)
    found += _list("largest buffers", program.buffers)
    found += _list("kernels that only move data", program.moves)
    return found


def shortage(program: ProgramReport | TooLarge, fitting: int) -> str:
    """Describes a program that does not fit, and the number of images per device that would."""
    needed = program.memory.total if isinstance(program, ProgramReport) else program.needed
    return (
        f"{program.what} does not fit on {program.target}: {program.per_device} images per device"
        f" need {binary_size(needed) if needed else 'more'} of {binary_size(program.available)};"
        f" {fitting or 'not even one'} would fit"
    )


def _loops(loops: Iterable[Loop]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for loop in loops:
        inside = "" if loop.depth == 0 else f" (inside {loop.depth})"
        trips = "?" if loop.trips is None else str(loop.trips)
        groups.setdefault(loop.owner, []).append(f"{trips}{inside}")
    return [f"    {owner or '(XLA)'}: {', '.join(trips)}" for owner, trips in groups.items()]


def _list(title: str, items: tuple[Item, ...]) -> list[str]:
    if not items:
        return []
    shown = [f"  {title}", *(f"    {_item(item)}" for item in items[:SHOWN])]
    rest = _number(items[SHOWN:])
    return [*shown, f"    and {rest} smaller ones"] if rest else shown


def _item(item: Item) -> str:
    size = binary_size(item.bytes)
    return f"{item.count:3} x {item.kind:<28} {size:>11}  {item.owner or '(XLA)'}"


def _number(items: Iterable[Item]) -> int:
    return sum(item.count for item in items)


def binary_size(size: int) -> str:
    """Formats a size in bytes as GiB, MiB or KiB."""
    for unit, bytes_ in (("GiB", GIB), ("MiB", 2**20)):
        if size >= bytes_:
            return f"{size / bytes_:.2f} {unit}"
    return f"{size / 2**10:.2f} KiB"
