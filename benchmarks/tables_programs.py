"""Tables of docs/programs.md: which programs compile for which devices, and what they need."""

import json
from typing import Any

from benchmarks.machine import RESULTS
from benchmarks.programs import DTYPES, SHARED, TARGETS, WHAT, groups

NAMES = {
    "train": "Training step",
    "predict": "Prediction",
    "maps": "Semantic and panoptic maps",
    "refine": "Prediction with refined masks",
    "bottom_up": "Bottom-up hierarchy",
}


def versions() -> list[str]:
    """Versions of jaxlib that there are results of, the oldest first."""
    found = [path.stem.removeprefix("programs_") for path in RESULTS.glob("programs_[0-9]*.json")]
    return sorted(found, key=lambda version: tuple(map(int, version.split("."))))


def pieces(name: str) -> dict[str, Any]:
    """The programs in a file of results, by recipe/what/dtype/target."""
    return json.loads((RESULTS / f"programs_{name}.json").read_text())["pieces"]


def programs() -> str:
    """Memory a device of every program, bfloat16 / float32, for each version of jaxlib."""
    known = {version: pieces(version) for version in versions()}
    parts = []
    for what in WHAT:
        for version, found in known.items():
            rows = [_row(recipe, others, what, found) for recipe, others in _recipes(what)]
            done = [row for row in rows if row]
            if done:
                parts += [f"**{NAMES[what]}, jaxlib {version}**", "", *_head(), *done, ""]
    return "\n".join(parts).rstrip()


def _recipes(what: str) -> list[tuple[str, list[str]]]:
    if what in SHARED:
        return [(SHARED[what], [SHARED[what]])]
    return list(groups().items())


def _head() -> list[str]:
    return [f"| recipe | {' | '.join(TARGETS)} |", "|---" * (1 + len(TARGETS)) + "|"]


def _row(recipe: str, names: list[str], what: str, found: dict[str, Any]) -> str:
    cells = [_cell(recipe, what, target, found) for target in TARGETS]
    if not any(cell.strip() for cell in cells):
        return ""
    shown = ", ".join(_short(name) for name in names)
    return f"| {shown} | {' | '.join(cells)} |"


def _short(name: str) -> str:
    return f"`{name.removesuffix('_coco')}`"


def _cell(recipe: str, what: str, target: str, found: dict[str, Any]) -> str:
    """As 2.0 / 3.4, for bfloat16 and float32; a dot for what has not been compiled yet."""
    cells = [_figure(found.get("/".join((recipe, what, dtype, target)))) for dtype in DTYPES]
    return "" if cells == ["·", "·"] else " / ".join(cells)


def _figure(piece: dict[str, Any] | None) -> str:
    if piece is None:
        return "·"
    if piece["status"] == "compiles":
        return f"{piece['memory_gib']:.1f}{'†' if piece.get('notes') else ''}"
    return f"**{piece['status']}**"


def coverage() -> str:
    """How many of all programs have been compiled, and with what result."""
    lines = ["| jaxlib | compiled | too large for the device | failed |", "|---|---|---|---|"]
    for version in versions():
        states = [piece["status"] for piece in pieces(version).values()]
        counts = (states.count(state) for state in ("compiles", "too large", "failed"))
        lines.append(f"| {version} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def before_and_after() -> str:
    """What the changes did that the programs themselves had asked for."""
    before, after = pieces("before"), pieces("0.10.2")
    lines = [
        "| program, bfloat16, 2 images a device | float32 products | loops, of unknown length |"
        " kernels | temporaries, GiB | all-reduces |",
        "|---|---|---|---|---|---|",
    ]
    for key, old in before.items():
        new = after.get(key)
        if new is None:
            continue
        recipe, what, _, target = key.split("/")
        name = f"{_short(recipe)}, {what}, {target}"
        lines.append("| " + " | ".join([name, *_changes(old, new)]) + " |")
    return "\n".join(lines)


def _changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    if old["status"] == "failed":
        return [f"failed → {text}" if i == 0 else text for i, text in enumerate(_figures(new))]
    return [
        a if a == b else f"{a} → {b}" for a, b in zip(_figures(old), _figures(new), strict=True)
    ]


def _figures(piece: dict[str, Any]) -> list[str]:
    if piece["status"] == "failed":
        return ["failed", "", "", "", ""]
    unknown = sum(piece["loops_of_unknown_length"].values())
    return [
        str(sum(piece["float32_products"].values())),
        f"{piece['loops']}, {unknown}",
        str(piece["kernels"]),
        f"{piece['temporaries_gib']:.2f}",
        str(sum(count for _, count, _ in piece["collectives"])),
    ]
