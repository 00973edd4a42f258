"""Command-line interface: `segjax train|evaluate|predict|compile|models|convert|check-data`."""

# pyright: strict, reportUnknownMemberType=false, reportMissingTypeStubs=false

import argparse
import dataclasses
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import segjax
from segjax.commands import compiling, data, runs, zoo
from segjax.commands.data import class_names, positive
from segjax.recipes import find_config, recipes
from segjax.spellings import split_flag, understood
from segjax.startup import check_places, choose_device, explained, keep_programs

TRAIN_HELP = """\
Every field of the config is a flag, checked against its type:
  --steps=1000  --optim.learning-rate=0.01  --data.root=FOLDER
`segjax train --config FILE --help` lists them all. A run that was stopped continues where its
folder's newest checkpoint left it.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      argv: arguments without the program name; None to use those of the process.

    Returns:
      The exit status: 0 for success, 1 for an error in the input, which is printed, 2 for wrong
      usage, and 128 plus the signal's number if a signal ended the command.
    """
    parser = _parser()
    arguments = list(sys.argv[1:] if argv is None else argv)
    known, flags = parser.parse_known_args(arguments)
    if flags and not getattr(known, "takes_fields", False):
        parser.error(f"unrecognized arguments: {' '.join(flags)}")
    if segjax.xla_flags_added and known.command in (_train, _evaluate, _predict):
        print(segjax.xla_flags_added)
    try:
        if getattr(known, "device", None):
            choose_device(known.device)
        return known.command(known, flags)
    except BrokenPipeError:  # for example after `| head`; keeps Python from failing at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except RuntimeError as error:  # XLA errors are RuntimeErrors
        sentence = explained(error)
        if sentence is None:
            raise
        print(f"segjax: {sentence}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"segjax: {stop or 'stopped'}", file=sys.stderr)
        # Training that a signal ended has saved its step: what was asked for is done.
        return 0 if hasattr(stop, "number") else 128 + signal.SIGINT
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        print(f"segjax: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("segjax", description=segjax.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=segjax.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    # No --help of its own, as `--config FILE --help` lists the fields of the config.
    train = commands.add_parser(
        "train",
        help="train as a config file says",
        allow_abbrev=False,
        add_help=False,
        epilog=TRAIN_HELP,
        usage="segjax train --config FILE [--workdir FOLDER] [--any.field=value ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument(
        "--config",
        metavar="FILE",
        help="a recipe (`segjax configs`), or a Python file with get_config()",
    )
    _add_device(train)
    train.add_argument(
        "--distributed",
        action="store_true",
        help="train with the other processes that Slurm, Open MPI, Kubernetes or a TPU started",
    )
    train.add_argument(
        "--auto-lr",
        action="store_true",
        help="scale the recipe's learning rate to --batch-size: linearly, for AdamW by the root",
    )
    train.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, without these")
    train.add_argument("--num-processes", metavar="N", type=positive)
    train.add_argument("--process-id", metavar="I", type=int, help="of this process, from 0")
    train.add_argument("--workdir", metavar="FOLDER", help="default: runs/NAME_OF_CONFIG")
    _add_trust(train, "of the model in the folder of --init-from")
    train.add_argument("-h", "--help", action="store_true", help="this, or a config's fields")
    train.set_defaults(command=_train, parser=train, takes_fields=True)

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
    evaluate.set_defaults(command=_evaluate, takes_fields=True)

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
    predict.add_argument(
        "--save",
        metavar="A,B,...",
        type=lambda text: text.split(","),
        default=[],
        help="also write masks, crops, csv, yolo, labelme or coco files of the objects drawn",
    )
    predict.add_argument("--recursive", action="store_true", help="look into sub-folders, too")
    predict.add_argument(
        "--stride", metavar="N", type=positive, default=1, help="predict every Nth frame of videos"
    )
    predict.add_argument(
        "--tile",
        metavar="PIXELS",
        type=positive,
        help="predict larger pictures in overlapping tiles of this size, to find small objects",
    )
    predict.add_argument(
        "--tile-overlap",
        metavar="F",
        type=float,
        help="part of a tile that its neighbour shows too; default: 0.25",
    )
    predict.set_defaults(command=_predict)

    compiling.add_compile(commands)
    runs.add_check_run(commands)
    runs.add_replay(commands)
    zoo.add_configs(commands)
    zoo.add_models(commands)
    zoo.add_convert(commands)
    data.add_check(commands)
    data.add_convert(commands)
    data.add_browse(commands)
    return parser


def _run_parser(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    """Adds a command that uses a trained model."""
    parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--checkpoint", metavar="FOLDER", help="a run's folder")
    which.add_argument(
        "--model", metavar="NAME", help="a name of `segjax models`, or a folder of `segjax convert`"
    )
    _add_trust(parser, "of the model")
    _add_device(parser)
    parser.add_argument("--step", type=int, help="of the checkpoint; default: the best")
    parser.add_argument(
        "--refine-masks",
        action="store_true",
        help="make masks follow the contours of the image (segjax.figure_ground)",
    )
    return parser


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", metavar="NAME", help="cpu, cuda, tpu, or numbers of CUDA devices such as 0,1"
    )


def _add_trust(parser: argparse.ArgumentParser, what: str) -> None:
    text = f"import this package, which has classes {what}; can be given several times"
    parser.add_argument("--trust", metavar="PACKAGE", action="append", default=[], help=text)


def _weights(known: argparse.Namespace) -> Any:
    """Loads the trained model of a command."""
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


def _tiles(known: argparse.Namespace) -> Any:
    """Returns the settings of tiles; None without --tile."""
    from segjax.predict.tiles import Tiles

    if known.tile is None:
        if known.tile_overlap is not None:
            raise ValueError("--tile-overlap is of tiles: give --tile too")
        return None
    overlap = {} if known.tile_overlap is None else {"overlap": known.tile_overlap}
    return Tiles(known.tile, **overlap)


def _train(known: argparse.Namespace, flags: list[str]) -> int:
    if known.config is None:
        known.parser.print_help()
        return 0 if known.help else 2
    path = find_config(known.config)  # fails fast, as importing JAX takes seconds
    epochs, flags = split_flag(understood(flags), "--epochs")
    # Only recipes are known not to draw their data or to read them from the hub.
    reads = path.resolve() in recipes().values() and "shapes" not in path.stem
    check_places(flags, root=reads and not any(flag.startswith("--data.name") for flag in flags))
    _join_others(known)
    keep_programs()
    from segjax.config import load_config
    from segjax.train.loop import train
    from segjax.train.resolve import with_auto_lr, with_epochs

    workdir = known.workdir or f"runs/{path.stem}"
    help_flag = ["--help"] if known.help else []
    config = load_config(path, [f"--workdir={workdir}", *flags, *help_flag])
    if known.auto_lr:
        config = with_auto_lr(config, load_config(path))
    if epochs is not None:
        config = with_epochs(config, float(epochs))
    train(config, trust=known.trust)
    return 0


def _join_others(known: argparse.Namespace) -> None:
    """Joins the other processes of the run, if flags or the environment say that there are any."""
    from segjax.distributed import Cluster, in_cluster, start

    cluster = Cluster(known.coordinator, known.num_processes, known.process_id)
    if not known.help and (known.distributed or known.coordinator or in_cluster()):
        start(cluster)


def _evaluate(known: argparse.Namespace, flags: list[str]) -> int:
    check_places(flags, checkpoint=known.checkpoint)
    keep_programs()
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
    # Nothing of the places that the run was trained on may stay.
    named: dict[str, Any] = dict.fromkeys(("train_json", "val_json", "test_json", "image_root"), "")
    named |= {"val_fraction": 0.0}
    named |= {"name": "2017"} if where == "coco" else {"name": "folder", "root": where}
    model = found.model
    if "panoptic" in model.tasks and found.data.semantic == "none":
        things = {0: "first", -1: "last", None: "no"}[model.classes.thing_label]
        named |= {"semantic": "panoptic", "merge_things": things}
    return dataclasses.replace(found.data, **named)


def _evaluated_fields(found: Any, data: Any) -> Any:
    """Returns the fields that flags of an evaluation can change, named as in a run's config."""
    from segjax.data.config import DataConfig
    from segjax.protocols import Model

    @dataclasses.dataclass(frozen=True)
    class Evaluated:
        model: Model
        data: DataConfig
        max_detections: tuple[int, ...]

    return Evaluated(found.model, data, tuple(found.origin.get("max_detections", (1, 10, 100))))


def _predict(known: argparse.Namespace, _: list[str]) -> int:
    check_places((), checkpoint=known.checkpoint)
    keep_programs()
    from segjax.predict.files import describe_counts, predict_files

    tiles = _tiles(known)
    predictor = _weights(known).predictor()
    predictor = dataclasses.replace(predictor, refine=_refinement(known), tiles=tiles)
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
        save=known.save,
        progress=sys.stderr.isatty(),
    )
    for name, counts in report.counts.items():
        print(f"{name}: {describe_counts(counts) or 'nothing found'}")
    print(report.text())
    return 1 if report.failed else 0
