"""The zoo's table of published weights of torchvision, Detectron2, MMDetection and others."""

import difflib
import fnmatch

from segjax.zoo import rows_backbones, rows_detectron2, rows_mmdet, rows_torchvision
from segjax.zoo.entry import Entry, Weights

__all__ = ["ENTRIES", "Entry", "Weights", "find", "list_models"]

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
    """Returns the row with a given name.

    Raises:
      ValueError: if there is none; the message suggests similar names.
    """
    if name in ENTRIES:
        return ENTRIES[name]
    near = difflib.get_close_matches(name, ENTRIES, n=3, cutoff=0.5)
    near = near or [known for known in ENTRIES if name and known.startswith(name)][:3]
    advice = (
        f"did you mean {' or '.join(near)}?" if near else "segjax.list_models() lists the names"
    )
    raise ValueError(f"the zoo has no {name!r}: {advice}")


def list_models(pattern: str = "*") -> list[str]:
    """Lists names of published weights for `segjax.load`, in the order of the table.

    Args:
      pattern: shell-style pattern, such as "mask_rcnn*" or "*.d2_3x".
    """
    return [name for name in ENTRIES if fnmatch.fnmatchcase(name, pattern)]
