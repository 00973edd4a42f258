"""Names that splits have in folders, and looking for them."""

from collections.abc import Callable, Sequence
from pathlib import Path

# The name of a split's files, by split, the preferred one first.
ALIASES = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}


def candidates(base: Path, forms: Sequence[str], split: str) -> list[Path]:
    """Lists the paths that something of a split can have.

    Args:
      base: the folder to look in.
      forms: paths below it, with {} for the split's name, the preferred one first.
      split: "train" or "val".

    Returns:
      The paths for every name of the split, the preferred name first.
    """
    return [base / form.format(name) for name in ALIASES[split] for form in forms]


def first(paths: Sequence[Path], accepts: Callable[[Path], bool]) -> Path | None:
    """Returns the first path that is accepted, such as by `Path.is_dir`; None if none is."""
    return next((path for path in paths if accepts(path)), None)
