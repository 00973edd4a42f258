"""The commands on recipes and published weights, `segjax configs`, `models` and `convert`."""

import argparse
from typing import Any

from segjax.commands.data import class_names, positive
from segjax.recipes import recipes, summary


def add_configs(commands: Any) -> None:
    """Adds the command `configs`."""
    configs = commands.add_parser("configs", help="ready-made recipes for --config")
    configs.add_argument("pattern", nargs="?", default="*", help='part of a name, or "htc*"')
    configs.set_defaults(command=_configs)


def add_models(commands: Any) -> None:
    """Adds the command `models`."""
    models = commands.add_parser("models", help="names of published weights")
    models.add_argument("name", nargs="?", metavar="NAME", help="part of a name, as mask_rcnn")
    models.add_argument("--like", metavar="PATTERN", default="*", help='as "mask_rcnn*.d2_*"')
    models.set_defaults(command=_models)


def add_convert(commands: Any) -> None:
    """Adds the command `convert`."""
    convert = commands.add_parser("convert", help="weights of another library to ours, or back")
    convert.add_argument(
        "source",
        metavar="FILE",
        help="a .pth, .pkl or .safetensors file; for"
        " --to, a name of `segjax models`, a run's folder or a converted one",
    )
    convert.add_argument(
        "--as", metavar="NAME", dest="name", help="of `segjax models`: whose model the file holds"
    )
    convert.add_argument(
        "--num-classes",
        metavar="N",
        type=positive,
        help="instance classes of the file; default: as its shapes say",
    )
    convert.add_argument(
        "--names", metavar="A,B,...", help="names of these classes, or a file of them, one a line"
    )
    convert.add_argument(
        "--to",
        choices=("torchvision", "detectron2", "mmdet"),
        help="write the weights as this library reads them",
    )
    convert.add_argument("--out", metavar="PATH", required=True, help="a folder; for --to, a file")
    convert.set_defaults(command=_convert)


def _configs(known: argparse.Namespace, _: list[str]) -> int:
    found = recipes(known.pattern)
    if not found:
        raise ValueError(f"no recipe is like {known.pattern!r}; `segjax configs` lists all")
    width = max(map(len, found))
    for name, path in found.items():
        print(f"{name:{width}}  {summary(path)}")
    return 0


def _models(known: argparse.Namespace, _: list[str]) -> int:
    from segjax.zoo.table import ENTRIES, list_models

    found = [ENTRIES[n] for n in list_models(known.like) if known.name is None or known.name in n]
    if not found:
        wanted = known.name or known.like
        raise ValueError(f"none of the {len(ENTRIES)} names is like {wanted!r}")
    width = max(len(entry.name) for entry in found)
    for entry in found:
        figures = ", ".join(f"{metric} {value}" for metric, value in entry.published.items())
        print(f"{entry.name:{width}}  {figures or 'no figure published'}  ({entry.licence})")
    print(f"{len(found)} of {len(ENTRIES)}; figures as published, not measured here")
    return 0


def _convert(known: argparse.Namespace, _: list[str]) -> int:
    if (known.name is None) == (known.to is None):
        raise ValueError("give --as NAME to read another library's file, or --to LIBRARY to write")
    if known.to is not None:
        from segjax.train.weights import pretrained
        from segjax.zoo.export import export_file

        path = export_file(pretrained(known.source), known.to, known.out)
        print(f"{known.source} -> {path}")
        return 0
    from segjax.zoo import hub, table

    names = () if known.names is None else class_names(known.names)
    found = hub.read_as(
        known.source, table.find(known.name), num_classes=known.num_classes, names=names
    )
    print(f"{known.source} -> {hub.write_folder(known.out, found)}")
    return 0
