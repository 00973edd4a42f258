"""Tables of docs/programs.md: which programs compile for which devices, and what they need."""

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
    """Versions of jaxlib that there are results of, the oldest first."""
    found = [path.stem.removeprefix("programs_") for path in RESULTS.glob("programs_[0-9]*.json")]
    return sorted(found, key=lambda version: tuple(map(int, version.split("."))))


def pieces(name: str) -> dict[str, Any]:
    """The programs in a file of results, by recipe/what/dtype/target."""
    return json.loads((RESULTS / f"programs_{name}.json").read_text())["pieces"]


def programs() -> str:
    """Memory a device of every program, bfloat16 / float32, for each version of jaxlib."""
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
    """Cells by the recipes' names and by target; "" for what has not been compiled yet."""
    recipes = groups() if what not in SHARED else {SHARED[what]: [SHARED[what]]}
    return {
        ", ".join(map(_short, names)): {t: _cell(recipe, what, t, found) for t in TARGETS}
        for recipe, names in recipes.items()
    }


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
    """Counts of the programs compiled so far, by result."""
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
    """Effects of the changes that the compiled programs called for."""
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
