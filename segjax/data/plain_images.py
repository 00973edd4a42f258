"""A folder of images without annotations, as training on label maps alone reads it."""

import os
from pathlib import Path

from segjax.data.coco import CocoDataset, CocoError, ImageRecord
from segjax.data.images import ImageError, read_size
from segjax.data.problems import Problems
from segjax.data.store import ImageStore, StoreError

ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def list_images(folder: Path, store: ImageStore) -> CocoDataset:
    """Lists the images below a folder, in the order of their names.

    Args:
      folder: that is searched; files of other endings than `ENDINGS` and hidden ones are left.
      store: of the folder.

    Returns:
      The images, with ids from 1 and without categories or objects. Those whose header cannot be
      read have height and width 0, so that building and checking meet them again.

    Raises:
      CocoError: if there is no image.
    """
    problems = Problems()
    records: list[ImageRecord] = []
    for name in _names(folder):
        problem = store.problem(name)
        if problem:
            problems.add(problem, repr(name)[:80])
            continue
        try:
            height, width = read_size(store.read(name))
        except (ImageError, StoreError):
            height, width = 0, 0
        records.append(ImageRecord(len(records) + 1, name, height, width, ()))
    if problems.fatal():
        lines = "\n".join(problems.lines())
        raise CocoError(
            f"{folder} holds files that cannot be used:\n{lines}\nRename or remove them."
        )
    if not records:
        raise CocoError(f"{folder} holds no image: wanted files ending in {', '.join(ENDINGS)}")
    return CocoDataset((), tuple(records), problems)


def _names(folder: Path) -> list[str]:
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(ENDINGS) and not name.startswith("."):
                found.append(Path(place, name).relative_to(folder).as_posix())
    return sorted(found)
