"""Files that belong together, written so that a reader never finds half of them."""

import os
from collections.abc import Mapping
from pathlib import Path


def write_together(folder: Path, contents: Mapping[str, bytes]) -> Path:
    """Writes files to a folder; all are complete on disk before the first takes its name.

    Args:
      folder: is made with its parents.
      contents: by file name.

    Returns:
      The folder.

    Raises:
      OSError: if there is no room; files that were there before are untouched then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = {name: folder / f".{name}.{os.getpid()}.partial" for name in contents}
    try:
        for name, content in contents.items():
            with partial[name].open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for name, path in partial.items():
            path.replace(folder / name)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)
    return folder
