"""Pascal VOC's PNGs: SegmentationObject numbers the objects, SegmentationClass their classes."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32

from segjax.data.coco import CocoError
from segjax.data.formats.coco_folder import image_names
from segjax.data.formats.gather import Gathered
from segjax.data.formats.search import read_lines
from segjax.data.id_maps import decode_ids, is_colour, masks_of
from segjax.data.images import ImageError
from segjax.data.store import FolderStore, StoreError

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
# The borders of objects: their index, and the colour of that index in VOC's palette.
_VOID, _VOID_COLOUR = 255, 224 + 256 * 224 + 65536 * 192
_NO_CLASSES = ("__ignore__", "_background_", "background")
_NO_CLASS = (
    "labelmap.txt, class_names.txt or VOC's own list does not name its pixels' class, and the xml"
    " lists another number of objects"
)


@dataclasses.dataclass(frozen=True)
class VocMasks:
    """Reads the masks of images.

    Attributes:
      objects: folder SegmentationObject.
      classes: folder SegmentationClass; None if there is none.
      names: classes by their numbers, or colours, in SegmentationClass; empty if unknown.
      colours: True if the keys of `names` are colours.
    """

    objects: FolderStore
    classes: FolderStore | None
    names: Mapping[int, str]
    colours: bool

    @classmethod
    def open(cls, folder: Path, follow_links: bool) -> "VocMasks":
        """Opens SegmentationObject, and SegmentationClass and lists of names next to it."""
        other = folder.parent / "SegmentationClass"
        classes = FolderStore(other, follow_links=follow_links) if other.is_dir() else None
        names, colours = _class_names(folder.parent)
        return cls(FolderStore(folder, follow_links=follow_links), classes, names, colours)

    def stems(self) -> tuple[str, ...]:
        """Lists the images that have a PNG of objects, without their endings."""
        return tuple(name[:-4] for name in image_names(self.objects.root) if name.endswith(".png"))

    def read(self, stem: str, image_name: str, listed: Sequence[str], found: Gathered) -> None:
        """Adds an image and its objects.

        Args:
          stem: name of its PNGs, without ending.
          image_name: its path.
          listed: classes of the objects in its xml, in order.
          found: gets the image, or the problem with it.
        """
        name, where = f"{stem}.png", self.objects.where(f"{stem}.png")
        if (problem := self.objects.problem(name)) is not None:
            kind = "image_not_annotated" if problem.kind == "missing_file" else problem.kind
            found.problems.add(kind, f"{where}: the name {problem.reason}")
            return
        # VOC's own list applies only where the xml confirms that the classes are VOC's.
        voc = bool(listed) and set(listed) <= set(VOC_CLASSES)
        names = self.names or (dict(enumerate(VOC_CLASSES, 1)) if voc else {})
        try:
            ids = self._read_objects(name)
            kinds = self._read_classes(name, ids.shape) if names else None
        except (ImageError, StoreError, CocoError) as error:
            found.problems.add("bad_mask", f"{where} {error}")
            return
        image = found.add_image(image_name, (ids.shape[0], ids.shape[1]))
        objects = list(masks_of(ids))
        in_order = listed if len(listed) == len(objects) else [None] * len(objects)
        for (value, mask), ordered in zip(objects, in_order, strict=True):
            label = _most(ids == value, kinds, names) or ordered
            if label:
                found.add_object(image, label, masks=[mask], where=f"{where}, value {value}")
            else:
                at = f"{where}, value {value}: {_NO_CLASS}"
                found.problems.add("object_without_class", at)

    def _read_objects(self, name: str) -> Int32[np.ndarray, "h w"]:
        """Reads the numbers of objects; void becomes 0."""
        data = self.objects.read(name)
        ids = decode_ids(data)
        ids[ids == (_VOID_COLOUR if is_colour(data) else _VOID)] = 0
        return ids

    def _read_classes(self, name: str, size: tuple[int, ...]) -> Int32[np.ndarray, "h w"] | None:
        """Reads the classes of an image's pixels; None without a PNG."""
        if self.classes is None or self.classes.problem(name) is not None:
            return None
        kinds = decode_ids(self.classes.read(name), palette=self.colours)
        if kinds.shape != size:
            raise CocoError(f"is {size}, and {self.classes.where(name)} is {kinds.shape}")
        return kinds


def _most(
    inside: Bool[np.ndarray, "h w"],
    kinds: Int32[np.ndarray, "h w"] | None,
    names: Mapping[int, str],
) -> str | None:
    """Returns the class of most of an object's pixels; None if no pixel has a known class."""
    if kinds is None:
        return None
    values, counts = np.unique(kinds[inside], return_counts=True)
    pixels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    known = [value for value in pixels if value in names]
    return names[max(known, key=lambda value: pixels[value])] if known else None


def _class_names(home: Path) -> tuple[dict[int, str], bool]:
    """Reads the names of the classes by number, or by colour (True)."""
    if (home / "labelmap.txt").is_file():
        return _label_map(home / "labelmap.txt"), True
    for name in ("class_names.txt", "labels.txt"):
        if (home / name).is_file():
            lines = read_lines(home / name)
            names = [line for line in lines if line not in _NO_CLASSES]
            return dict(enumerate(names, 1)), False
    return {}, False


def _label_map(path: Path) -> dict[int, str]:
    """Reads the lines `name:red,green,blue:parts:actions` that CVAT writes."""
    found: dict[int, str] = {}
    for line in read_lines(path):
        name, _, rest = line.partition(":")
        channels = rest.partition(":")[0].split(",")
        if line.startswith("#") or name == "background":
            continue
        if len(channels) != 3 or not all(channel.strip().isdecimal() for channel in channels):
            raise CocoError(f"{path} holds {line!r:.60}, wanted name:red,green,blue::")
        red, green, blue = map(int, channels)
        found[red + 256 * green + 65536 * blue] = name
    return found
