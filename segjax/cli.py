"""The command line: `segjax train|evaluate|predict|compile|models|convert|check-data`."""

# pyright: strict, reportUnknownMemberType=false, reportMissingTypeStubs=false

import argparse
import dataclasses
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import segjax
from segjax import cli_data
from segjax.cli_data import class_names, positive

TRAIN_HELP = """\
Every field of the config is a flag, checked against its type:
  --steps=1000  --optim.learning-rate=0.01  --data.root=FOLDER
`segjax train --config FILE --help` lists them all. A run that was stopped continues where its
folder's newest checkpoint left it.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      argv: arguments without the program's name; None: the process's own.

    Returns:
      The exit status: 0; 1 for an error in the input, which is printed; 2 for wrong usage.
    """
    parser = _parser()
    arguments = list(sys.argv[1:] if argv is None else argv)
    known, flags = parser.parse_known_args(arguments)
    if flags and known.command not in (_train, _evaluate, _compile):
        parser.error(f"unrecognized arguments: {' '.join(flags)}")
    if segjax.xla_flags_added and known.command in (_train, _evaluate, _predict):
        print(segjax.xla_flags_added)
    try:
        return known.command(known, flags)
    except KeyboardInterrupt as stop:
        print(f"segjax: {stop or 'stopped'}", file=sys.stderr)
        return 128 + getattr(stop, "number", signal.SIGINT)
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        print(f"segjax: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("segjax", description=segjax.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=segjax.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    # Without its own --help: that of a config lists the config's fields.
    train = commands.add_parser(
        "train",
        help="train as a config file says",
        allow_abbrev=False,
        add_help=False,
        epilog=TRAIN_HELP,
        usage="segjax train --config FILE [--workdir FOLDER] [--any.field=value ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("--config", metavar="FILE", help="a Python file with get_config()")
    train.add_argument("--workdir", metavar="FOLDER", help="default: runs/NAME_OF_CONFIG")
    _add_trust(train, "of the model in the folder of --init-from")
    train.add_argument("-h", "--help", action="store_true", help="this, or a config's fields")
    train.set_defaults(command=_train, parser=train)

    evaluate = _run_parser(commands, "evaluate", "scores of a trained model")
    evaluate.add_argument(
        "--data", metavar="WHERE", help='"coco" (COCO 2017, downloaded), or a COCO-format folder'
    )
    evaluate.add_argument("--split", metavar="NAME", default="val", help="train, val or test")
    evaluate.add_argument(
        "--results", metavar="FILE", help="write a COCO results json, and maps beside it"
    )
    evaluate.add_argument(
        "--boundary",
        action="store_true",
        help="also boundary AP of masks and boundary IoU of semantic maps (2103.16562)",
    )
    evaluate.epilog = "--data.FIELD, --model.FIELD and --max-detections change the run's config."
    evaluate.set_defaults(command=_evaluate)

    predict = _run_parser(commands, "predict", "what is in pictures, drawn and as json and maps")
    predict.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help='pictures, folders, patterns such as "photos/*.jpg", URLs, videos, or camera:0',
    )
    predict.add_argument("--out", metavar="FOLDER", required=True, help="for pictures, json, maps")
    predict.add_argument(
        "--draw",
        choices=("panoptic", "instances", "semantic"),
        help="default: the first of these that the model gives",
    )
    predict.add_argument(
        "--score-threshold",
        "--conf",
        type=float,
        dest="score_threshold",
        help="of objects that are drawn (default 0.5) or become segments (default: the model's)",
    )
    predict.add_argument("--max-detections", type=positive, help="of a picture")
    predict.add_argument("--classes", metavar="A,B,...", help="keep objects of these classes alone")
    predict.add_argument("--recursive", action="store_true", help="look into sub-folders, too")
    predict.add_argument(
        "--stride", metavar="N", type=positive, default=1, help="predict every Nth frame of videos"
    )
    predict.set_defaults(command=_predict)

    compile_ = commands.add_parser(
        "compile",
        help="compile a config's programs for a device that need not be present",
        description="Compiles the training step and the prediction of a config for a device that"
        " need not be present, and prints their memory, kernels, loops and communication.",
        allow_abbrev=False,
        epilog="Every field of the config is a flag too, such as --compute-dtype=bfloat16.",
    )
    compile_.add_argument(
        "--config", metavar="NAME", required=True, help="a file, or a name of configs/"
    )
    compile_.add_argument(
        "--target",
        required=True,
        help="h100, h200, a100, l4, h100:8, v5e:4x4, v5p:2x2x1, v6e:2x2, cpu",
    )
    compile_.add_argument(
        "--per-device-batch", metavar="N", type=positive, help="images; default: the config's"
    )
    compile_.add_argument(
        "--image-size",
        metavar=("H", "W"),
        nargs=2,
        type=positive,
        help="pixels of the padded images; default: as the config resizes landscape images",
    )
    compile_.add_argument(
        "--what",
        metavar="A,B",
        type=lambda text: text.split(","),
        help="of train, predict, maps, refine, bottom_up; default: what the run compiles",
    )
    compile_.add_argument("--save", metavar="FOLDER", help="keep the programs' texts")
    compile_.set_defaults(command=_compile)

    models = commands.add_parser("models", help="names of published weights")
    models.add_argument("--like", metavar="PATTERN", default="*", help='as "mask_rcnn*.d2_*"')
    models.set_defaults(command=_models)

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

    cli_data.add_check(commands)
    return parser


def _run_parser(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    """A command on a trained model."""
    parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--checkpoint", metavar="FOLDER", help="a run's folder")
    which.add_argument(
        "--model", metavar="NAME", help="a name of `segjax models`, or a folder of `segjax convert`"
    )
    _add_trust(parser, "of the model")
    parser.add_argument("--step", type=int, help="of the checkpoint; default: the best")
    parser.add_argument(
        "--refine-masks",
        action="store_true",
        help="make masks follow the contours of the image (segjax.figure_ground)",
    )
    return parser


def _add_trust(parser: argparse.ArgumentParser, what: str) -> None:
    text = f"import this package, which has classes {what}; can be given several times"
    parser.add_argument("--trust", metavar="PACKAGE", action="append", default=[], help=text)


def _weights(known: argparse.Namespace) -> Any:
    """The trained model that a command is for."""
    from segjax.train.weights import pretrained, pretrained_run

    if known.checkpoint is not None:
        return pretrained_run(known.checkpoint, known.step, trust=known.trust)
    if known.step is not None:
        raise ValueError("--step chooses a checkpoint of --checkpoint; --model has one alone")
    return pretrained(known.model, trust=known.trust)


def _refinement(known: argparse.Namespace) -> Any:
    """Returns the refinement of masks; None without --refine-masks."""
    from segjax.figure_ground.refine import MaskRefinement

    return MaskRefinement() if known.refine_masks else None


def _train(known: argparse.Namespace, flags: list[str]) -> int:
    if known.config is None:
        known.parser.print_help()
        return 0 if known.help else 2
    from segjax.config import load_config
    from segjax.train.loop import train

    workdir = known.workdir or f"runs/{Path(known.config).stem}"
    help_flag = ["--help"] if known.help else []
    config = load_config(known.config, [f"--workdir={workdir}", *flags, *help_flag])
    train(config, trust=known.trust)
    return 0


def _compile(known: argparse.Namespace, flags: list[str]) -> int:
    from segjax.aot.compile import CompilationError, compile_for
    from segjax.aot.report import ProgramReport
    from segjax.aot.text import lines, shortage
    from segjax.config import find_config, load_config

    config = load_config(find_config(known.config), flags)
    try:
        found = compile_for(
            config,
            known.target,
            what=known.what,
            per_device_batch=known.per_device_batch,
            image_size=known.image_size and tuple(known.image_size),
            save=known.save,
        )
    except CompilationError as error:
        print(f"segjax: {error}", file=sys.stderr)
        return 1
    for program in found.programs:
        if isinstance(program, ProgramReport):
            print("\n".join(lines(program)))
        if not program.fits:
            print(shortage(program, found.fitting_batches[program.what]), file=sys.stderr)
    return 0 if found.fits else 1


def _evaluate(known: argparse.Namespace, flags: list[str]) -> int:
    from segjax.config import override
    from segjax.data.pipeline import open_dataset
    from segjax.eval.runner import evaluate
    from segjax.models.parts.rois import with_max_detections
    from segjax.train.checks import check_splits

    found = _weights(known)
    data = found.data if known.data is None else _data_named(found, known.data)
    fields = override(_evaluated_fields(found, data), flags, "segjax evaluate")
    model = fields.model
    if any(flag.replace("_", "-").startswith("--max-detections") for flag in flags):
        model = with_max_detections(model, max(fields.max_detections))
    dataset = open_dataset(fields.data)
    check_splits(dataset, fields.data, (known.split,))
    results = evaluate(
        model,
        found.variables,
        dataset,
        known.split,
        fields.data,
        max_dets=fields.max_detections,
        boundary=known.boundary,
        results_json=known.results,
        progress=sys.stderr.isatty(),
        classes=found.classes,
        refine=_refinement(known),
    )
    print(f"{found.label}, {known.split} split")
    print(results.text())
    if results.files:
        print(f"written: {', '.join(map(str, results.files))}")
    return 0


def _data_named(found: Any, where: str) -> Any:
    """The data of `--data`, resized as in training, with the labels that the model is scored by."""
    named: dict[str, str] = (
        {"name": "2017"} if where == "coco" else {"name": "folder", "root": where}
    )
    model = found.model
    if "panoptic" in model.tasks and found.data.semantic == "none":
        things = {0: "first", -1: "last", None: "no"}[model.classes.thing_label]
        named |= {"semantic": "panoptic", "merge_things": things}
    return dataclasses.replace(found.data, **named)


def _evaluated_fields(found: Any, data: Any) -> Any:
    """Fields that an evaluation's flags can change, under the names of a run's config."""
    from segjax.data.config import DataConfig
    from segjax.protocols import Model

    @dataclasses.dataclass(frozen=True)
    class Evaluated:
        model: Model
        data: DataConfig
        max_detections: tuple[int, ...]

    return Evaluated(found.model, data, tuple(found.origin.get("max_detections", (1, 10, 100))))


def _predict(known: argparse.Namespace, _: list[str]) -> int:
    from segjax.predict.files import describe_counts, predict_files

    predictor = dataclasses.replace(_weights(known).predictor(), refine=_refinement(known))
    report = predict_files(
        predictor,
        known.images,
        known.out,
        score_threshold=known.score_threshold,
        max_detections=known.max_detections,
        classes=() if known.classes is None else class_names(known.classes),
        draw=known.draw,
        recursive=known.recursive,
        stride=known.stride,
        progress=sys.stderr.isatty(),
    )
    for name, counts in report.counts.items():
        print(f"{name}: {describe_counts(counts) or 'nothing found'}")
    print(report.text())
    return 1 if report.failed else 0


def _models(known: argparse.Namespace, _: list[str]) -> int:
    from segjax.zoo.table import ENTRIES, list_models

    found = [ENTRIES[name] for name in list_models(known.like)]
    if not found:
        raise ValueError(f"none of the {len(ENTRIES)} names is like {known.like!r}")
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
