"""Cityscapes: leftImg8bit/ and gtFine/, whose PNGs hold the class and the number of each object."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from segjax.data.coco import CocoError
from segjax.data.config import DataConfig
from segjax.data.formats.coco_folder import image_names
from segjax.data.formats.gather import Access, Gathered, Part, gathered_splits, hash_parts
from segjax.data.id_maps import decode_ids, masks_of
from segjax.data.images import ImageError
from segjax.data.protocols import Split, Workspace
from segjax.data.store import FolderStore, StoreError

# The classes with objects, by Cityscapes' label ids.
CLASSES = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
# Annotated as objects, but ignored by Cityscapes' evaluation.
_IGNORED = {29: "caravan", 30: "trailer"}


@dataclasses.dataclass(frozen=True)
class Cityscapes:
    """The format "cityscapes": the eight classes with objects, in train and val.

    Pixel values of 1000 and more are `1000 * class + number`. A smaller value of one of these
    classes is a group, which becomes a crowd. The annotations of test are not public.

    Attributes:
      root: folder that contains `leftImg8bit/` and `gtFine/`.
      access: rules for reading images.
    """

    root: str
    access: Access

    @classmethod
    def of(cls, config: DataConfig) -> "Cityscapes":
        """Creates the source from a config; raises `ValueError` if `root` is not set."""
        if not config.root:
            raise ValueError('name="cityscapes" needs root: the folder with leftImg8bit/')
        return cls(config.root, Access.of(config))

    @classmethod
    def recognises(cls, root: Path) -> str | None:
        """Describes the files that identify a folder as this format; None if it is not."""
        both = (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir()
        return "leftImg8bit/ and gtFine/: Cityscapes" if both else None

    def fingerprint(self) -> str:
        """Hashes images and label PNGs by path, size, time and samples."""
        return hash_parts(self.splits(None), self._parts())

    def splits(self, workspace: Workspace | None) -> Mapping[str, Split]:
        """Opens the splits; raises `CocoError` if a folder is missing."""
        note = "leftImg8bit/ and gtFine/: Cityscapes"
        return gathered_splits(self._parts(), _read, self.access, note, declared=True)

    def _parts(self) -> dict[str, Part]:
        root = Path(self.root).expanduser().absolute()
        parts: dict[str, Part] = {}
        for split in ("train", "val"):
            images, masks = root / "leftImg8bit" / split, root / "gtFine" / split
            if images.is_dir() and masks.is_dir():
                parts[split] = Part(self.access.folder(images), folder=masks)
        if not parts:
            raise CocoError(f"no leftImg8bit/train/ with gtFine/train/ in {root}")
        return parts


def _read(part: Part, found: Gathered) -> None:
    assert part.folder is not None
    store = FolderStore(part.folder, follow_links=part.images.follow_links)
    found.declare(list(CLASSES.values()))
    for name in image_names(part.images.root):
        mask = f"{name.rpartition('_leftImg8bit')[0]}_gtFine_instanceIds.png"
        try:
            ids = decode_ids(store.read(mask))
        except (ImageError, StoreError) as error:
            found.problems.add("bad_mask", f"{store.where(mask)} {error}")
            continue
        image = found.add_image(name, (ids.shape[0], ids.shape[1]))
        for value, pixels in masks_of(ids):
            number = value // 1000 if value >= 1000 else value
            where = f"{store.where(mask)}, value {value}"
            if number in CLASSES:
                label, crowd = CLASSES[number], value < 1000
                found.add_object(image, label, masks=[pixels], crowd=crowd, where=where)
            elif number in _IGNORED:
                found.problems.add("ignored_label", f"{where}: {_IGNORED[number]}")
