"""Model cards: human-readable descriptions of folders of weights."""

from typing import Any

METRICS = {
    "box/AP": "box AP",
    "segm/AP": "mask AP",
    "panoptic/PQ": "PQ",
    "imagenet/top1": "ImageNet top-1",
}


def card(found: Any) -> str:
    """Returns the README.md of a model's folder, with the front matter that model hubs read.

    Args:
      found: a `Pretrained`.
    """
    origin = found.origin
    name = found.label
    lines = [
        "---",
        "library_name: segjax",
        f"license: {_licence_id(origin.get('licence', ''))}",
        "tags: [image-segmentation, object-detection, jax, flax]",
        "---",
        "",
        f"# {name}",
        "",
        f"A `{type(found.model).__name__}` of [segjax](https://pypi.org/project/segjax):"
        f" {_size(found.variables):,} parameters.",
        "",
        "```python",
        "import segjax",
        "",
        'predictor = segjax.pretrained("FOLDER").predictor()',
        'model, variables = segjax.load("FOLDER")',
        "```",
        "",
        *_table(found),
    ]
    return "\n".join(lines)


def _table(found: Any) -> list[str]:
    """Returns a Markdown table of facts about the weights, one per row."""
    origin = found.origin
    rows = {
        "converted from": origin.get("url") or origin.get("file"),
        "model as in the zoo's": origin.get("architecture"),
        "run, step": f"{origin['run']}, {origin['step']}" if "run" in origin else None,
        "licence of the weights": origin.get("licence"),
        "published": _scores(origin.get("published") or {}),
        "published in": origin.get("source"),
        "classes": _names(found.classes.names),
        "classes of pixels": _names(found.classes.semantic_names),
        "drawn at random": ", ".join(found.fresh),
    }
    return ["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items() if v), ""]


def _scores(published: Any) -> str:
    return ", ".join(f"{METRICS.get(key, key)} {value}" for key, value in published.items())


def _names(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:10])
    return f"{len(names)}: {shown}{', ...' if len(names) > 10 else ''}" if names else ""


def _size(variables: Any) -> int:
    import jax

    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def _licence_id(licence: str) -> str:
    """Returns a licence as model hubs spell it: "cc-by-sa-3.0"."""
    return licence.lower().replace(" ", "-") or "other"
