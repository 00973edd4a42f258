"""Tables of figure-ground segmentation, from the results files."""

import json
from typing import Any

from benchmarks.machine import RESULTS

NAMES = {
    "bottom_up": "`bottom_up`",
    "weighted_aggregation": "`bottom_up`, weighted aggregation",
    "felzenszwalb": "felzenszwalb",
    "slic": "SLIC",
}


def figure_ground() -> str:
    """Tables of the hierarchies' quality, next to other segmentations, and of their speed."""
    quality, speed = load("figure_ground_quality"), load("figure_ground_speed")
    lines = [
        "| data | method | boundary F, one scale | boundary F, best scales | coverage | "
        "coverage by area | s an image, all scales |",
        "|---|---|---|---|---|---|---|",
    ]
    for title, results in quality["sets"].items():
        for method, name in NAMES.items():
            r = results[method]
            keys = ("boundary_f_ods", "boundary_f_ois", "coverage", "coverage_by_area")
            scores = " | ".join(f"{r[key]:.3f}" for key in keys)
            lines.append(f"| {title} | {name} | {scores} | {r['seconds_an_image']:.3f} |")
    images = sum(r["images"] for r in quality["sets"].values())
    over = [count for counts in quality["dropped"].values() for count in counts]
    most = f", {max(over)} borders or segments at most" if over else ""
    lines += [
        "",
        f"{len(over)} of the {images} images exceeded the capacity of a level, either way{most}.",
    ]
    lines += [
        "",
        "| method | pixels | ms | megapixels a minute | s to compile |",
        "|---|---|---|---|---|",
    ]
    ways = ("bottom_up", "weighted_aggregation")
    for way in ways:
        for side, r in speed[way]["sizes"].items():
            rate, seconds = r["megapixels_a_minute_median"], r["compile_s"]
            lines.append(
                f"| {NAMES[way]} | {side} x {side} | {1e3 * r['median_s']:.1f} | {rate:.0f} |"
                f" {seconds:.0f} |"
            )
    merge, weighted = (speed[way]["exponent_median"] for way in ways)
    refined = ", ".join(f"{r['median_s']:.2f} s at {size}" for size, r in speed["refine"].items())
    lines += [
        "",
        f"Seconds grow with the {merge:.2f}th power of the pixels, those of weighted aggregation "
        f"with the {weighted:.2f}th. Combining the masks of {speed['detections']} detections with "
        f"a hierarchy takes {refined}.",
    ]
    return "\n".join(lines)


def refined_masks() -> str:
    """Table of trained models' AP with their own and with refined masks."""
    metrics = {
        "mask AP": "segm/AP",
        "small": "segm/APs",
        "medium": "segm/APm",
        "boundary AP": "boundary/AP",
    }
    lines = [f"| data | masks | {' | '.join(metrics)} | s to evaluate |", "|---" * 7 + "|"]
    for name, forms in load("refined_masks")["runs"].items():
        for cells, r in forms.items():
            pairs = [f"{r['plain'][m]:.3f} → {r['refined'][m]:.3f}" for m in metrics.values()]
            pairs.append(f"{r['plain']['seconds']:.0f} → {r['refined']['seconds']:.0f}")
            lines.append(f"| {name} | {cells} | {' | '.join(pairs)} |")
    return "\n".join(lines)


def load(name: str) -> dict[str, Any]:
    """Loads a results file."""
    return json.loads((RESULTS / f"{name}.json").read_text())
