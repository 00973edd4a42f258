"""Writes the tables of the README and the docs from the files under benchmarks/results/.

    python -m benchmarks.tables

A test checks that the pages match the output of this script.
"""

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS
from benchmarks.tables_figure_ground import figure_ground, refined_masks
from benchmarks.tables_programs import before_and_after, coverage, programs
from segjax.zoo.table import ENTRIES

ROOT = Path(__file__).parent.parent
# Models in the README: six, one of each kind.
SIX = (
    "mask_rcnn_resnet50_fpn_v2.tv_coco_v1",
    "faster_rcnn_resnet50_fpn.d2_3x",
    "mask_rcnn_resnet50_fpn.d2_3x",
    "cascade_mask_rcnn_resnet50_fpn.d2_3x",
    "htc_resnext101_64x4d_fpn.mm_20e",
    "panoptic_fpn_resnet101.d2_3x",
)


def main() -> None:
    """Rewrites the marked parts of every page."""
    for page in PAGES:
        (ROOT / page).write_text(filled(page))


def filled(page: str) -> str:
    """Returns a page with every part between `<!-- NAME -->` and `<!-- /NAME -->` regenerated.

    Args:
      page: key of `PAGES`.

    Raises:
      ValueError: if the page lacks one of its parts.
    """
    text = (ROOT / page).read_text()
    for table in PAGES[page]:
        name = table.__name__
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        if not re.search(pattern, text, flags=re.DOTALL):
            raise ValueError(f"{page} has no part <!-- {name} --> ... <!-- /{name} -->")
        text = re.sub(pattern, rf"\g<1>{table()}\n\g<2>", text, flags=re.DOTALL)
    return text


def load(name: str) -> dict[str, Any]:
    """Loads a results file."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def runs() -> str:
    """Table of the training runs' scores."""
    lines = [
        "| data | box AP | segm AP | segm AP50 | loss, first to last | steps | min | CPU min |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in ("shapes", "dsb_ci", "coco_ci"):
        r = load(name)
        s = r["scores"]
        lines.append(
            f"| {r['data']} | {s['box/AP']:.3f} | {s['segm/AP']:.3f} | {s['segm/AP50']:.3f} | "
            f"{r['first_loss']:.2f} to {r['last_loss']:.2f} | {r['steps']} | "
            f"{r['wall_minutes']:.1f} | {r['cpu_minutes']:.1f} |"
        )
    return "\n".join(lines)


def panoptic() -> str:
    """Table of the panoptic models' scores."""
    lines = [
        "| data | PQ | things | stuff | mIoU | pixel accuracy | segm AP | loss, first to last | "
        "steps | min | CPU min |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in ("shapes_panoptic", "coco_panoptic200"):
        r = load(name)
        s = r["scores"]
        lines.append(
            f"| {r['data']} | {s['panoptic/PQ']:.3f} | {s['panoptic/PQ_things']:.3f} | "
            f"{s['panoptic/PQ_stuff']:.3f} | {s['semantic/mIoU']:.3f} | {s['semantic/pACC']:.3f} | "
            f"{s['segm/AP']:.3f} | "
            f"{r['first_loss']:.2f} to {r['last_loss']:.2f} | {r['steps']} | "
            f"{r['wall_minutes']:.1f} | {r['cpu_minutes']:.1f} |"
        )
    return "\n".join(lines)


def install_sizes() -> str:
    """Table of what installations weigh, and the largest packages of the plain one."""
    sizes = load("install_size")["sizes"]
    lines = ["| installation | MB | of these, what only feeds training |", "|---|---|---|"]
    for extra, found in sizes.items():
        name = f"`.[{extra}]`" if extra else "`.`"
        data = _megabytes(found["data"]) if not extra else ""
        lines.append(f"| {name} | {_megabytes(found['bytes'])} | {data} |")
    largest = [
        f"{name} {_megabytes(size)}" for name, size in list(sizes[""]["largest"].items())[:8]
    ]
    return "\n".join([*lines, "", f"The largest packages of `.`, in MB: {', '.join(largest)}."])


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f}"


def cascades() -> str:
    """Table comparing Mask R-CNN and the cascades."""
    steps, all_runs = cascade_runs()
    lines = [
        f"| {steps} steps on shapes | box AP | mask AP | mask AP75 | CPU min |",
        "|---|---|---|---|---|",
    ]
    for name, by_seed in all_runs.items():
        aps = " | ".join(
            _spread([run[metric] for run in by_seed.values()])
            for metric in ("box/AP", "segm/AP", "segm/AP75")
        )
        minutes = statistics.mean(run["cpu_minutes"] for run in by_seed.values())
        lines.append(f"| {name} | {aps} | {minutes:.1f} |")
    plain, htc = all_runs["Mask R-CNN"], all_runs["HTC"]
    gains = [htc[seed]["segm/AP"] - plain[seed]["segm/AP"] for seed in plain]
    lines += ["", f"HTC's mask AP less Mask R-CNN's, seed by seed: {_spread(gains, '+.3f')}."]
    return "\n".join(lines)


def cascade_runs() -> tuple[int, dict[str, dict[str, dict[str, float]]]]:
    """Returns the number of steps and the runs by model and seed from all files cascades*.json."""
    merged: dict[str, dict[str, dict[str, float]]] = {}
    steps = set()
    for path in sorted(RESULTS.glob("cascades*.json")):
        results = load(path.stem)
        steps.add(results["steps"])
        for name, by_seed in results["runs"].items():
            merged.setdefault(name, {}).update(by_seed)
    (number,) = steps  # runs of different length cannot be compared
    return number, merged


def pretrained() -> str:
    """Table of the light model from ImageNet and from random weights, by seed."""
    r = load("pretrained")
    lines = [
        f"| {r['steps']} steps on {r['data']} | seed | box AP | mask AP | mask AP50 | mask AP75 | "
        "last loss | CPU min |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for seed in r["runs"]["ImageNet"]:
        for side, by_seed in r["runs"].items():
            run = by_seed[seed]
            aps = " | ".join(
                f"{run['scores'][metric]:.3f}"
                for metric in ("box/AP", "segm/AP", "segm/AP50", "segm/AP75")
            )
            lines.append(
                f"| {side} weights | {seed} | {aps} | {run['last_loss']:.2f} | "
                f"{run['cpu_minutes']:.1f} |"
            )
    started, drawn = r["runs"]["ImageNet"], r["runs"]["random"]
    gains = [
        started[seed]["scores"]["segm/AP"] - drawn[seed]["scores"]["segm/AP"] for seed in drawn
    ]
    by_seed = ", ".join(f"{gain:+.3f}" for gain in gains)
    images = r["images"]
    lines += [
        "",
        f"Mask AP from ImageNet's weights less that from random ones, seed by seed: {by_seed}; "
        f"{images['train']} images to train on, {images['val']} scored.",
    ]
    return "\n".join(lines)


def _spread(values: list[float], form: str = ".3f") -> str:
    """Formats mean and sample standard deviation."""
    return f"{statistics.mean(values):{form}} ± {statistics.stdev(values):.3f}"


def zoo() -> str:
    """Tables of the zoo's rows and their scores, as published or, if available, as measured here.

    `results/zoo.json`, if present, holds scores (0..1) by name as measured by `segjax evaluate`.
    """
    measured = load("zoo") if (RESULTS / "zoo.json").exists() else {}
    return "\n".join(
        [
            *_zoo_part(
                "detector",
                {"box/AP": "box AP", "segm/AP": "mask AP", "panoptic/PQ": "PQ"},
                measured,
            ),
            "",
            *_zoo_part("backbone", {"imagenet/top1": "ImageNet top-1"}, measured),
        ]
    )


def _zoo_part(kind: str, metrics: dict[str, str], measured: dict[str, Any]) -> list[str]:
    """Collapsible table of all rows of one kind."""
    entries = [entry for entry in ENTRIES.values() if entry.kind == kind]
    lines = [
        f"<details><summary>{len(entries)} {kind}s</summary>",
        "",
        f"| name | {' | '.join(metrics.values())} | figures are | licence of the weights |",
        f"|---|{'---|' * len(metrics)}---|---|",
    ]
    for entry in entries:
        scores = {k: 100 * v for k, v in measured.get(entry.name, {}).items()} or entry.published
        figures = " | ".join(f"{scores[m]:.1f}" if m in scores else "" for m in metrics)
        origin = "measured" if entry.name in measured else "published" if scores else ""
        lines.append(f"| `{entry.name}` | {figures} | {origin} | {entry.licence} |")
    return [*lines, "", "</details>"]


def goldens() -> str:
    """Table of deviations from the peers' numbers."""
    lines = [
        "| peer | features | detections paired | first losses | 5 steps | gradients, median |",
        "|---|---|---|---|---|---|",
    ]
    trained = ("loss_trajectory: first", "loss_trajectory: 5 steps", "grad_norms: median")
    for name, r in load("goldens").items():
        columns = [f"{r['feature: largest / rms']:.0e}", f"{r['detection: share paired']:.1%}"]
        columns += [f"{r[key]:.0e}" if key in r else "-" for key in trained]
        lines.append(f"| {name} | {' | '.join(columns)} |")
    return "\n".join(lines)


def speed() -> str:
    """Table of run times relative to torchvision."""
    results = load("mask_rcnn_vs_torchvision")
    lines = [
        "| Mask R-CNN R50-FPN, 800 x 1344, float32, 2 threads | segjax s | torchvision s | ratio "
        "(least to largest of runs) |",
        "|---|---|---|---|",
    ]
    for name, what in (
        ("inference", "inference, masks pasted"),
        ("training", "training step, 512 regions"),
    ):
        r = results[name]
        lines.append(
            f"| {what} | {r['ours_s']:.2f} | {r['theirs_s']:.2f} | "
            f"{r['ratio']:.2f} ({r['ratio_min']:.2f} to {r['ratio_max']:.2f}) |"
        )
    seconds = load("compile_times")["seconds"]
    slowest = max(seconds, key=lambda name: seconds[name])
    lines += [
        "",
        f"Compiling the training step takes {seconds['mask_rcnn_r50_fpn_1x_coco']:.0f} s for "
        f"Mask R-CNN R50 and at most {seconds[slowest]:.0f} s (`{slowest}`) among the recipes.",
    ]
    return "\n".join(lines)


def class_experiment() -> str:
    """Table of bottom-up, top-down and combined segmentation of classes learned without masks."""
    results = load("class_experiment")
    ways = {
        "bottom_up": "bottom-up, fixed rule",
        "bottom_up_best_rule": "bottom-up, best rule",
        "top_down": "top-down",
        "combined": "combined",
        "best_labels_of_finest_segments": "best labels",
    }
    lines = [f"| class | {' | '.join(ways.values())} |", "|---" * (len(ways) + 1) + "|"]
    rows = {
        f"creatures, {name.replace('_', ' ')}": r for name, r in results["creatures"].items()
    } | {name: results[name] for name in ("nuclei", "persons") if name in results}
    for name, r in rows.items():
        both = [
            f"{r['scores'][w]['pixel_accuracy']:.3f}, {r['scores'][w]['iou']:.3f}" for w in ways
        ]
        lines.append(f"| {name} | {' | '.join(both)} |")
    return "\n".join(lines)


def models() -> str:
    """Table of six zoo rows, one of each kind of model."""
    metrics = {"box/AP": "box AP", "segm/AP": "mask AP", "panoptic/PQ": "PQ"}
    lines = [f"| name | {' | '.join(metrics.values())} |", "|---" * (1 + len(metrics)) + "|"]
    for name in SIX:
        scores = ENTRIES[name].published
        figures = " | ".join(f"{scores[m]:.1f}" if m in scores else "" for m in metrics)
        lines.append(f"| `{name}` | {figures} |")
    return "\n".join(lines)


def parity() -> str:
    """Sentence on the largest deviations from the peers over all golden files."""
    results = load("goldens").values()
    features, losses = (
        max(r[key] for r in results if key in r)
        for key in ("feature: largest / rms", "loss_trajectory: first")
    )
    paired = min(r["detection: share paired"] for r in results)
    return (
        f"{len(results)} models of torchvision, Detectron2 and MMDetection: features agree to "
        f"{features:.0e} of their rms, losses of the first step to {losses:.0e}, and at least "
        f"{paired:.1%} of the detections are the same."
    )


# Functions that write each page's tables; a function's name is its marker.
PAGES: dict[str, tuple[Callable[[], str], ...]] = {
    "README.md": (models, parity),
    "docs/benchmarks.md": (runs, panoptic, cascades, pretrained, speed),
    "docs/parity.md": (goldens,),
    "docs/install.md": (install_sizes,),
    "docs/zoo.md": (zoo,),
    "docs/figure_ground.md": (figure_ground, refined_masks, class_experiment),
    "docs/programs.md": (programs, coverage, before_and_after),
}


if __name__ == "__main__":
    main()
