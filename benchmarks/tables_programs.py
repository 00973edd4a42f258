"""Tables of docs/programs.md: programs that compile for each device, and the memory they need."""

import json
from typing import Any

from benchmarks.machine import RESULTS
from benchmarks.programs import DTYPES, SHARED, TARGETS, WHAT, all_pieces, groups

NAMES = {
    "train": "Training step",
    "predict": "Prediction",
    "maps": "Semantic and panoptic maps",
    "refine": "Prediction with refined masks",
    "bottom_up": "Bottom-up hierarchy",
}


def versions() -> list[str]:
    """Returns the versions of jaxlib that have results, oldest first."""
    found = [path.stem.removeprefix("programs_") for path in RESULTS.glob("programs_[0-9]*.json")]
    return sorted(found, key=lambda version: tuple(map(int, version.split("."))))


def pieces(name: str) -> dict[str, Any]:
    """Returns the programs in a results file, keyed by recipe/what/dtype/target."""
    return json.loads((RESULTS / f"programs_{name}.json").read_text())["pieces"]


def programs() -> str:
    """Tables of each program's memory per device, bfloat16 / float32, by version of jaxlib."""
    parts = []
    for what in WHAT:
        for version in versions():
            rows = _rows(what, pieces(version))
            targets = [t for t in TARGETS if any(cells[t] for cells in rows.values())]
            if not targets:
                continue
            parts += [f"**{NAMES[what]}, jaxlib {version}**", ""]
            parts += [f"| recipe | {' | '.join(targets)} |", "|---" * (1 + len(targets)) + "|"]
            for name, cells in rows.items():
                if any(cells.values()):
                    parts.append(f"| {name} | {' | '.join(cells[t] for t in targets)} |")
            parts.append("")
    return "\n".join(parts).rstrip()


def _rows(what: str, found: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Returns the cells by recipe names and target; "" for programs that are not compiled yet."""
    recipes = groups() if what not in SHARED else {SHARED[what]: [SHARED[what]]}
    return {
        ", ".join(map(_short, names)): {t: _cell(recipe, what, t, found) for t in TARGETS}
        for recipe, names in recipes.items()
    }


def _short(name: str) -> str:
    return f"`{name.removesuffix('_coco')}`"


def _cell(recipe: str, what: str, target: str, found: dict[str, Any]) -> str:
    """Formats memory as "2.0 / 3.4" for bfloat16 and float32; a dot means not compiled yet."""
    cells = [_figure(found.get("/".join((recipe, what, dtype, target)))) for dtype in DTYPES]
    return "" if cells == ["·", "·"] else " / ".join(cells)


def _figure(piece: dict[str, Any] | None) -> str:
    if piece is None:
        return "·"
    if piece["status"] == "compiles":
        return f"{piece['memory_gib']:.1f}{'†' if piece.get('notes') else ''}"
    return f"**{piece['status']}**"


def coverage() -> str:
    """Table of the programs compiled so far, counted by result."""
    states = ("compiles", "too large", "failed")
    lines = [
        "| jaxlib | compiled | too large for the device | failed | not compiled yet |",
        "|---|---|---|---|---|",
    ]
    everything = len(list(all_pieces(TARGETS, DTYPES, WHAT, list(groups()))))
    for version in versions():
        found = [piece["status"] for piece in pieces(version).values()]
        counts = [found.count(state) for state in states]
        row = [version, *counts, everything - sum(counts)]
        lines.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(lines)


def before_and_after() -> str:
    """Table of the effects of changes that the compiled programs suggested."""
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
