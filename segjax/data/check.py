"""What `segjax check-data` prints: totals and named defects of a folder in COCO format."""

import os

from segjax.data.coco import load_coco, verify_images
from segjax.data.layout import find_splits
from segjax.data.problems import Problems
from segjax.data.store import FolderStore


def check_folder(root: str | os.PathLike[str], *, decode: bool = True) -> tuple[str, bool]:
    """Examines every split of a folder.

    Args:
      root: the folder.
      decode: also decode every image, which takes a few milliseconds each.

    Returns:
      The report, and whether the folder can be trained on as it is.

    Raises:
      CocoError: if there are no annotation files, or one that cannot be parsed.
    """
    parts: list[str] = []
    problems: list[Problems] = []
    for split, files in find_splits(root).items():
        store = FolderStore(files.images)
        dataset = load_coco(files.annotations, store, on_problem="collect")
        if decode:
            verify_images(dataset, store)
        parts.append(f"{split}: {files.annotations}\n{dataset.report()}")
        problems.append(dataset.problems)
    return "\n\n".join(parts), not any(found.fatal() for found in problems)
