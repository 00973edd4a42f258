"""Reads and writes the class names in a run's folder."""

import dataclasses
import json
from pathlib import Path

from segjax.results.classes import Classes

CLASSES_FILE = "classes.json"


def save_classes(folder: Path, classes: Classes) -> None:
    """Writes `classes.json`."""
    record = dataclasses.asdict(classes)
    (folder / CLASSES_FILE).write_text(json.dumps(record, indent=2) + "\n")


def read_classes(folder: Path) -> Classes:
    """Reads `classes.json`; files of older runs only contain the names of instance classes."""
    return Classes.from_record(json.loads((folder / CLASSES_FILE).read_text()))
