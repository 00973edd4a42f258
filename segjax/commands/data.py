"""Commands on data: `segjax check-data` and `segjax convert-data`."""

import argparse
from pathlib import Path
from typing import Any


def add_check(commands: Any) -> None:
    """Adds the command `check-data`."""
    check = commands.add_parser("check-data", help="list the defects of a dataset")
    check.add_argument("root", metavar="FOLDER")
    check.add_argument(
        "--format", metavar="NAME", default="folder", help="as --data.name; default: folder"
    )
    check.add_argument("--no-decode", action="store_true", help="do not decode images and maps")
    check.add_argument(
        "--semantic",
        metavar="NAME",
        default="none",
        help="also check these semantic labels, as --data.semantic takes them",
    )
    check.add_argument("--semantic-root", metavar="FOLDER", default="", help="of their maps")
    check.add_argument(
        "--semantic-ignore", metavar="NUMBER", type=int, default=255, help="that counts for nothing"
    )
    check.add_argument(
        "--semantic-values",
        metavar="NUMBER",
        type=int,
        nargs="+",
        default=[],
        help="numbers of the classes in label PNGs, in order, such as 0 255",
    )
    check.add_argument("--no-masks", action="store_true", help="for a model of boxes alone")
    check.add_argument(
        "--exif",
        choices=("stored", "upright"),
        default="stored",
        help="pixels that the labels of turned photographs are of; default: stored",
    )
    check.add_argument(
        "--follow-links", action="store_true", help="also through links out of the image folder"
    )
    check.add_argument(
        "--max-image-pixels", metavar="N", type=positive, default=50_000_000, help="of an image"
    )
    check.set_defaults(command=_check)


def add_convert(commands: Any) -> None:
    """Adds the command `convert-data`."""
    convert = commands.add_parser(
        "convert-data", help="write a dataset of another format as a folder in COCO format"
    )
    convert.add_argument("root", metavar="FOLDER")
    convert.add_argument("--out", metavar="FOLDER", required=True, help="a new folder")
    convert.add_argument(
        "--format", metavar="NAME", default="folder", help="as --data.name; default: recognised"
    )
    convert.add_argument("--link", action="store_true", help="link images instead of copying them")
    convert.add_argument(
        "--exif", choices=("stored", "upright"), default="stored", help="as for check-data"
    )
    convert.set_defaults(command=_convert)


def _convert(known: argparse.Namespace, _: list[str]) -> int:
    from segjax.data.config import DataConfig
    from segjax.data.export import write_coco

    config = DataConfig(root=known.root, name=known.format, exif=known.exif)
    written, notes = write_coco(config, known.out, link=known.link)
    print("\n".join(notes.lines()))
    for split in written.values():
        print(f"{split.annotations}: {split.images} images, {split.objects} objects")
        print("\n".join(split.problems.lines()))
    failed = any(split.problems.fatal() for split in written.values())
    if failed:
        print("entries with an ERROR were left out")
    return 1 if failed else 0


def class_names(text: str) -> tuple[str, ...]:
    """Reads a flag of names: a file with one a line, or the names themselves with commas."""
    from segjax.data.labels.folder import read_label_names

    if Path(text).expanduser().is_file():
        return read_label_names(Path(text).expanduser())
    return tuple(name.strip() for name in text.split(","))


def positive(text: str) -> int:
    """Reads a flag that must be at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _check(known: argparse.Namespace, _: list[str]) -> int:
    from segjax.data.check import check_dataset, splits_to_check
    from segjax.data.config import DataConfig
    from segjax.data.labels import LABELS

    semantic = known.semantic
    config = DataConfig(
        root=known.root,
        name=known.format,
        semantic=semantic,
        semantic_root=known.semantic_root,
        semantic_ignore=known.semantic_ignore,
        semantic_values=tuple(known.semantic_values),
        exif=known.exif,
        follow_links=known.follow_links,
        max_image_pixels=known.max_image_pixels,
        # Plain label PNGs can be all that there is to learn from.
        instances=semantic == "none" or LABELS[semantic].needs_objects,
    )
    files = {name: split.files for name, split in splits_to_check(config).items()}
    found = check_dataset(config, decode=not known.no_decode, masks=not known.no_masks)
    for name, problems in found.items():
        listed = files.get(name, ())
        where = ", ".join(map(str, listed[:1])) or "images without annotations"
        where += f" and {len(listed) - 1} more files" if len(listed) > 1 else ""
        print(name if name not in files else f"{name}: {where}")
        print("\n".join(problems.lines()) or "no defects")
    return 1 if any(problems.fatal() for problems in found.values()) else 0
