"""The one table of the zoo: published weights of torchvision, Detectron2 and MMDetection."""

import difflib
import fnmatch

from segjax.zoo import rows_backbones, rows_detectron2, rows_mmdet, rows_torchvision
from segjax.zoo.entry import Entry, Weights

__all__ = ["ENTRIES", "Entry", "Weights", "find", "names"]

ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        *rows_torchvision.ROWS,
        *rows_detectron2.ROWS,
        *rows_mmdet.ROWS,
        *rows_backbones.ROWS,
    )
}


def find(name: str) -> Entry:
    """The row of that name.

    Raises:
      ValueError: if there is none, with names that are near.
    """
    if name in ENTRIES:
        return ENTRIES[name]
    near = difflib.get_close_matches(name, ENTRIES, n=3, cutoff=0.5)
    near = near or [known for known in ENTRIES if name and known.startswith(name)][:3]
    advice = f"did you mean {' or '.join(near)}?" if near else "segjax.models() lists the names"
    raise ValueError(f"the zoo has no {name!r}: {advice}")


def names(pattern: str = "*") -> list[str]:
    """Names that fit a pattern such as "mask_rcnn*.d2_*", in the table's order."""
    return [name for name in ENTRIES if fnmatch.fnmatchcase(name, pattern)]
