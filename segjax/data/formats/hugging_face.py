"""Hugging Face datasets, saved to disk or by name, with a column of images and one of objects."""

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segjax.data import rle
from segjax.data.coco import CocoError
from segjax.data.config import DataConfig
from segjax.data.formats.gather import Access, Gathered, Part, gathered_splits, hash_parts
from segjax.data.formats.search import split_of
from segjax.data.id_maps import decode_ids, masks_of
from segjax.data.images import ImageError
from segjax.data.layout import ALIASES
from segjax.data.protocols import Split, Workspace
from segjax.data.store import FolderStore, NameProblem, StoreError

# Names that keys of objects, and columns of masks, have in the datasets on the hub.
_LABELS = ("category", "label", "category_id", "categories", "labels")
_OUTLINES = ("segmentation", "polygon", "polygons", "mask", "masks")
_MAPS = ("annotation", "instances", "instance_mask", "mask")


@dataclasses.dataclass(frozen=True)
class HuggingFace:
    """The format "huggingface"; it needs the package `datasets` (`pip install 'segjax[datasets]'`).

    One column has images. "objects" holds for each object "bbox" (`x, y, width, height` in pixels),
    a class ("category", "label" or "category_id") and, for masks, "segmentation" as in COCO. Or a
    column "annotation" holds an image whose red channel is the class and whose green channel is the
    number of each object, 0 for none, with names in "semantic_class_to_id".

    Attributes:
      root: folder of `save_to_disk`, or a name for `load_dataset`, which downloads it.
      access: rules for reading images.
    """

    root: str
    access: Access

    @classmethod
    def of(cls, config: DataConfig) -> "HuggingFace":
        """Creates the source from a config; raises `ValueError` if `root` is not set."""
        if not config.root:
            raise ValueError('name="huggingface" needs root: a folder, or a name on the hub')
        return cls(config.root, Access.of(config))

    @classmethod
    def recognises(cls, root: Path) -> str | None:
        """Describes the files that identify a folder as this format; None if it is not."""
        if (root / "dataset_dict.json").is_file():
            return "dataset_dict.json: Hugging Face datasets"
        single = (root / "state.json").is_file() and (root / "dataset_info.json").is_file()
        return "state.json and dataset_info.json: Hugging Face datasets" if single else None

    def fingerprint(self) -> str:
        """Hashes the files of a folder, or takes the fingerprints of the package."""
        folder = Path(self.root).expanduser()
        if folder.is_dir():
            return hash_parts({}, {"all": Part(FolderStore(folder), folder=folder)})
        digest = hashlib.blake2b(digest_size=8)
        for name, table in sorted(_tables(self.root).items()):
            digest.update(f"{name} {table._fingerprint}\n".encode())
        return digest.hexdigest()

    def splits(self, workspace: Workspace | None) -> Mapping[str, Split]:
        """Opens the splits; raises `CocoError` if the columns are others."""
        parts = {
            split: Table(table, f"{self.root}, split {split}")
            for split, table in _tables(self.root).items()
        }
        note = self.recognises(Path(self.root).expanduser()) or "Hugging Face datasets"
        declared = all(table.names is not None for table in parts.values())
        return gathered_splits(parts, _read, self.access, note, declared=declared)


def _tables(root: str) -> dict[str, Any]:
    """Opens the tables of the splits; a single table is train."""
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "reading Hugging Face datasets needs the package datasets: pip install"
            " 'segjax[datasets]'"
        ) from None
    folder = Path(root).expanduser()
    local = HuggingFace.recognises(folder) is not None
    opened: Any = datasets.load_from_disk(str(folder)) if local else datasets.load_dataset(root)
    tables = dict(opened) if isinstance(opened, dict) else {"train": opened}
    found: dict[str, Any] = {}
    for name in tables:
        split = split_of(name)
        if split is not None and split not in found:
            found[split] = tables[name]
    if not found:
        wanted = ", ".join(name for names in ALIASES.values() for name in names)
        raise CocoError(f"{root} has the splits {', '.join(tables)}: wanted some of {wanted}")
    return found


class Table:
    """One split: the table's images as a store, which have no files of their own.

    Attributes:
      rows: the table, with undecoded images.
      names: names of the classes by number; None if the table has none, or texts as classes.
      files: empty.
      place: name of the data, for messages.
    """

    def __init__(self, table: Any, place: str) -> None:
        import datasets  # pyright: ignore[reportMissingImports]

        kinds = {name: kind for name, kind in table.features.items() if _is_image(kind)}
        names = [name for name in kinds if name not in _MAPS]
        if not names:
            raise CocoError(f"{place} has the columns {', '.join(table.features)}: none has images")
        for name in kinds:
            table = table.cast_column(name, datasets.Image(decode=False))
        self.rows: Any = table
        self.column = "image" if "image" in names else names[0]
        self.map = next((name for name in _MAPS if name in kinds), None)
        self.names = _class_names(table)
        self.files: tuple[Path, ...] = ()
        self.place = place

    @property
    def images(self) -> "Table":
        """The table itself."""
        return self

    def problem(self, name: Any) -> NameProblem | None:
        """Returns the reason that forbids reading `name`, or None."""
        stem = str(name).partition(".")[0]
        if stem.isdecimal() and int(stem) < len(self.rows):
            return None
        return NameProblem("missing_file", f"is not in {self.place}")

    def read(self, name: str) -> bytes:
        """Returns the bytes of an image; raises `StoreError` if they are not in the table."""
        return _bytes_of(self.rows[int(name.partition(".")[0])][self.column], self.where(name))

    def where(self, name: str) -> str:
        """Returns what to call an image in a message."""
        return f"{self.place}, row {name.partition('.')[0].lstrip('0') or '0'}"


def _is_image(kind: Any) -> bool:
    return type(kind).__name__ == "Image"


def _bytes_of(cell: Any, where: str) -> bytes:
    data = cell.get("bytes") if isinstance(cell, dict) else None
    if not isinstance(data, bytes):
        path = cell.get("path") if isinstance(cell, dict) else None
        raise StoreError(
            f"{where}: the image is a file elsewhere ({path!r:.80}), wanted it in the table:"
            " save_to_disk puts it there"
        )
    return data


def _read(table: Table, found: Gathered) -> None:
    found.declare(table.names or ())
    if "objects" not in table.rows.features and table.map is None:
        raise CocoError(
            f"{table.place} has the columns {', '.join(table.rows.features)}: wanted objects, or"
            f" one of {', '.join(_MAPS)}"
        )
    for index, row in enumerate(table.rows):
        where = f"{table.place}, row {index}"
        try:
            data = _bytes_of(row[table.column], where)
        except StoreError as error:
            found.problems.add("bad_image", str(error))
            continue
        image = found.add_image(f"{index:08d}{_ending(data)}")
        if "objects" in row:
            _read_objects(row["objects"], table.names, found, image, where)
        elif table.map is not None:
            _read_map(row, table.map, found, image, where)


def _ending(data: bytes) -> str:
    """Returns the ending for a file with these contents."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            kind = (image.format or "png").lower()
    except Exception:  # the image is reported when its size is read
        kind = "png"
    return ".jpg" if kind == "jpeg" else f".{kind}"


def _class_names(table: Any) -> Sequence[str] | None:
    """Returns the names of the classes by number, if the table has them."""
    kind: Any = table.features.get("objects")
    for _ in range(3):  # a list of objects, an object of lists, or both
        if isinstance(kind, dict):
            kind = next((kind[key] for key in _LABELS if key in kind), None)
        names = getattr(kind, "names", None)
        if names is not None:
            return names
        kind = kind[0] if isinstance(kind, list) else getattr(kind, "feature", kind)
    return None


def _read_objects(
    cell: Any, names: Sequence[str] | None, found: Gathered, image: int, where: str
) -> None:
    """Adds the objects of a row, whether they are a list of objects or an object of lists."""
    if isinstance(cell, dict):
        keys = [key for key in cell if isinstance(cell[key], list)]
        count = max((len(cell[key]) for key in keys), default=0)
        cell = [{k: cell[k][i] for k in keys if i < len(cell[k])} for i in range(count)]
    for number, one in enumerate(cell or [], 1):
        at = f"{where}, object {number}"
        try:
            label = _label(one, names)
            polygons, masks = _outline(one)
            box = one.get("bbox")
            if (box or not (polygons or masks)) and len(box or ()) != 4:
                raise ValueError(f"bbox is {box!r:.60}, wanted x, y, width, height")
        except (ValueError, TypeError) as error:
            found.problems.add("bad_object", f"{at}: {error}")
            continue
        crowd = bool(one.get("iscrowd") or one.get("is_crowd"))
        x, y, w, h = map(float, box or (0, 0, 0, 0))
        found.add_object(
            image, label, polygons=polygons, masks=masks, box=(x, y, w, h), crowd=crowd, where=at
        )


def _label(one: Mapping[str, Any], names: Sequence[str] | None) -> str:
    value = next((one[key] for key in _LABELS if key in one), None)
    if isinstance(value, str):
        return value
    if not isinstance(value, int):
        raise ValueError(f"its class is {value!r:.40}, wanted one of {', '.join(_LABELS)}")
    if names is None:
        return f"class {value}"
    if not 0 <= value < len(names):
        raise ValueError(f"its class is {value}, the table has {len(names)}")
    return names[value]


def _outline(one: Mapping[str, Any]) -> tuple[list[list[float]], list[rle.Rle]]:
    """Returns polygons, or a mask from run lengths."""
    value = next((one[key] for key in _OUTLINES if one.get(key)), None)
    if value is None:
        return [], []
    if isinstance(value, dict):
        height, width = value["size"]
        counts = value["counts"]
        if isinstance(counts, list):
            return [], [rle.from_counts(counts, height, width)]
        text = counts.decode("ascii") if isinstance(counts, bytes) else str(counts)
        return [], [rle.canonical({"size": [height, width], "counts": text})]
    flat = value if isinstance(value[0], list) else [value]
    return [[float(number) for number in polygon] for polygon in flat], []


def _read_map(row: Any, column: str, found: Gathered, image: int, where: str) -> None:
    """Adds the objects of a map: red is the class, green the number of the object."""
    names = _map_names(row.get("semantic_class_to_id"))
    try:
        ids = decode_ids(_bytes_of(row[column], where)) % 65536
    except (ImageError, StoreError) as error:
        found.problems.add("bad_mask", f"{where}: {error}")
        return
    ids[ids < 256] = 0  # classes of pixels that are of no object
    for value, mask in masks_of(ids):
        label = names.get(value % 256, f"class {value % 256}")
        found.add_object(image, label, masks=[mask], where=f"{where}, object {value // 256}")


def _map_names(value: Any) -> dict[int, str]:
    """Inverts "semantic_class_to_id", an object or the text of one."""
    pairs = json.loads(value) if isinstance(value, str) else value
    if not isinstance(pairs, dict):
        return {}
    return {number: name for name, number in pairs.items() if isinstance(number, int)}
