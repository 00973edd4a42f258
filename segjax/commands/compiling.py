"""The command `segjax compile`."""

import argparse
import sys
from typing import Any

from segjax.commands.data import positive


def add_compile(commands: Any) -> None:
    """Adds the command `compile`."""
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
    compile_.set_defaults(command=_compile, takes_fields=True)


def _compile(known: argparse.Namespace, flags: list[str]) -> int:
    from segjax.aot.compile import CompilationError, compile_for
    from segjax.aot.report import ProgramReport
    from segjax.aot.text import lines, shortage
    from segjax.config import load_config

    config = load_config(known.config, flags)
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
