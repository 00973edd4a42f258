"""Names of splits in folders, and looking up their files."""

from collections.abc import Callable, Sequence
from pathlib import Path

# Names that the files of each split can have, the preferred one first.
ALIASES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def candidates(base: Path, forms: Sequence[str], split: str) -> list[Path]:
    """Lists the paths where a file or folder of a split can be.

    Args:
      base: folder to search.
      forms: path templates relative to `base`, with {} for the split's name, the preferred one
        first.
      split: name of the split, a key of `ALIASES`.

    Returns:
      The paths for every name of the split, the preferred name first.
    """
    return [base / form.format(name) for name in ALIASES[split] for form in forms]


def first(paths: Sequence[Path], accepts: Callable[[Path], bool]) -> Path | None:
    """Returns the first path that `accepts`, such as `Path.is_dir`, accepts; None if none is."""
    return next((path for path in paths if accepts(path)), None)
