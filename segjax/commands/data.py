"""The commands on datasets, `segjax check-data` and `segjax convert-data`."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any


def add_check(commands: Any) -> None:
    """Adds the command `check-data`."""
    check = commands.add_parser("check-data", help="list the defects of a dataset")
    _add_reading(check)
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
        "--stats",
        action="store_true",
        help="also count images, objects, sizes and classes, and find pictures that splits share",
    )
    check.set_defaults(command=_check)


def add_convert(commands: Any) -> None:
    """Adds the command `convert-data`."""
    convert = commands.add_parser(
        "convert-data", help="write a dataset of another format as a folder in COCO format"
    )
    _add_reading(convert)
    convert.add_argument("--out", metavar="FOLDER", required=True, help="a new folder")
    how = convert.add_mutually_exclusive_group()
    how.add_argument("--copy", action="store_true", help="copy the images, the default")
    how.add_argument("--link", action="store_true", help="link images instead of copying them")
    convert.set_defaults(command=_convert)


def add_browse(commands: Any) -> None:
    """Adds the command `browse`."""
    browse = commands.add_parser(
        "browse",
        help="draw images of a dataset as annotated and as augmented",
        epilog="--data.FIELD changes how images are resized and augmented.",
    )
    _add_reading(browse)
    browse.add_argument("--out", metavar="FOLDER", default="browse", help="default: browse")
    browse.add_argument("--split", metavar="NAME", default="train", help="default: train")
    browse.add_argument("--number", metavar="N", type=positive, default=12, help="of images")
    browse.add_argument(
        "--config", metavar="FILE", help="the recipe whose sizes and augmentation are shown"
    )
    browse.set_defaults(command=_browse, takes_fields=True)


def _add_reading(parser: argparse.ArgumentParser) -> None:
    """Adds the data, and flags on how they are read."""
    parser.add_argument(
        "root", metavar="SOURCE", nargs="?", default="", help="folder of the data, or a file"
    )
    for split in ("train", "val", "test"):
        parser.add_argument(
            f"--{split}-json",
            metavar="FILE",
            default="",
            help=f"COCO file of {split}, instead of those in a folder; --images has the images",
        )
    parser.add_argument(
        "--format",
        "--from",
        metavar="NAME",
        default="folder",
        help="as --data.name; default: as recognised",
    )
    parser.add_argument(
        "--images", metavar="FOLDER", default="", help="where the images are, if not in the folder"
    )
    parser.add_argument(
        "--val-fraction",
        metavar="F",
        type=float,
        default=0.0,
        help="take this part of train for val, equal and similar images together",
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of --val-fraction")
    parser.add_argument(
        "--val-group",
        metavar="PATTERN",
        default="",
        help='of file names whose images stay together, such as "clip[0-9]+"',
    )
    parser.add_argument(
        "--exif",
        choices=("stored", "upright"),
        default="stored",
        help="pixels that the labels of turned photographs are of; default: stored",
    )
    parser.add_argument(
        "--follow-links", action="store_true", help="also through links out of the image folder"
    )
    parser.add_argument(
        "--max-image-pixels", metavar="N", type=positive, default=50_000_000, help="of an image"
    )


def _reading(known: argparse.Namespace) -> dict[str, Any]:
    """Returns the fields of a `DataConfig` that `_add_reading` has flags for.

    Raises:
      ValueError: if the data are not named.
    """
    named = known.root or known.train_json or known.val_json or known.test_json
    if not named and known.format == "folder":
        raise ValueError("give a folder of data, an exported file, or --train-json and --images")
    return {
        "root": known.root,
        "name": known.format,
        "train_json": known.train_json,
        "val_json": known.val_json,
        "test_json": known.test_json,
        "image_root": known.images,
        "val_fraction": known.val_fraction,
        "val_seed": known.seed,
        "val_group": known.val_group,
        "exif": known.exif,
        "follow_links": known.follow_links,
        "max_image_pixels": known.max_image_pixels,
    }


def _convert(known: argparse.Namespace, _: list[str]) -> int:
    from segjax.data.config import DataConfig
    from segjax.data.export import write_coco

    found = write_coco(DataConfig(**_reading(known)), known.out, link=known.link)
    print(found.text())
    flags = [
        flag
        for flag, wanted in (
            ("--data.follow-links=True", known.link),
            ("--data.exif=upright", known.exif == "upright"),
            (f"--data.max-image-pixels={known.max_image_pixels}", known.max_image_pixels > 5e7),
        )
        if wanted
    ]
    if flags:
        print(f"to be read with {' '.join(flags)}")
    failed = any(split.problems.fatal() for split in found.splits.values())
    if failed:
        print("entries with an ERROR were left out")
    return 1 if failed else 0


def class_names(text: str) -> tuple[str, ...]:
    """Parses a flag with class names: comma-separated, or a file with one name per line."""
    from segjax.data.labels.folder import read_label_names

    if Path(text).expanduser().is_file():
        return read_label_names(Path(text).expanduser())
    return tuple(name.strip() for name in text.split(","))


def positive(text: str) -> int:
    """Parses a flag with an integer of at least 1."""
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
        **_reading(known),
        semantic=semantic,
        semantic_root=known.semantic_root,
        semantic_ignore=known.semantic_ignore,
        semantic_values=tuple(known.semantic_values),
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
    if known.stats:
        from segjax.data.statistics import describe_dataset

        print()
        print(describe_dataset(config).text())
    return 1 if any(problems.fatal() for problems in found.values()) else 0


def _browse(known: argparse.Namespace, flags: list[str]) -> int:
    from segjax.data.config import DataConfig

    reading = {name: value for name, value in _reading(known).items() if value}
    config = DataConfig(**reading)
    if known.config or flags:
        from segjax.config import load_config, override
        from segjax.recipes import find_config

        if known.config:
            config = dataclasses.replace(load_config(find_config(known.config)).data, **reading)
        config = override(_Browsed(config), flags, "segjax browse").data
    from segjax.results.samples import browse

    made = browse(config, known.out, split=known.split, number=known.number, seed=known.seed)
    print(f"{len(made.pictures)} pictures of {known.split}, {made.total} images: open {made.page}")
    return 0


@dataclasses.dataclass(frozen=True)
class _Browsed:
    """Fields that flags of `browse` can change, under the names of a run's config."""

    data: Any
