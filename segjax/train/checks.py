"""Checks of data, folder and weights before a run starts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segjax.config import TrainConfig
from segjax.config_json import to_json
from segjax.data.config import DataConfig
from segjax.data.dataset import Dataset
from segjax.data.together import check_caps
from segjax.results.classes import Classes
from segjax.train.classes import CLASSES_FILE, read_classes
from segjax.train.metrics import say
from segjax.train.optim import under_any
from segjax.train.runs import CONFIG_FILE


def check_splits(dataset: Dataset, data: DataConfig, names: Sequence[str]) -> None:
    """Logs the problems found in the splits, with counts and the first locations of each.

    Args:
      dataset: opened dataset.
      data: config that the dataset was opened with.
      names: names of the splits that will be read.

    Raises:
      ValueError: if a split is missing; the message names the split and the folder.
    """
    for name in names:
        if name not in dataset.splits:
            where = data.root if data.name == "folder" else data.name
            raise ValueError(
                f'{where} has no split "{name}", only {sorted(dataset.splits)}: wanted'
                f" annotations/instances_{name}.json and the folder {name}/"
                + (", or a part of train: --data.val-fraction=0.1" if name == "val" else "")
            )
        for line in dataset.split(name).problems:
            say(f"{name}: {line}")
    together = dataset.problems
    if "train" in names and data.instances:
        index = dataset.split("train").index
        together += tuple(check_caps("train", index, data.max_instances).lines())
    for line in together:
        say(line)


def check_same_run(folder: Path, config: TrainConfig, classes: Classes, step: int) -> None:
    """Checks that a config can continue the run whose checkpoints are in a folder.

    Differences in fields that may change, such as the learning rate, are logged, with the value
    that applies.

    Args:
      folder: folder of a run that has checkpoints.
      config: config to continue with, with its model resolved.
      classes: classes of the data that the model predicts.
      step: step of the newest checkpoint.

    Raises:
      ValueError: if the model or the classes differ, or the run already has more steps than the
        config asks for; the message lists the fields that differ.
    """
    if config.steps < step:
        raise ValueError(
            f"{folder} holds a run of {step} steps already, and steps is {config.steps}: give at"
            f" least {step} to go on, or another --workdir for a new run"
        )
    advice = (
        f"give another --workdir for a new run (--init-from={folder} starts from these weights),"
        " or go on with the config that this run was started with"
    )
    if (folder / CLASSES_FILE).exists():
        saved_classes = read_classes(folder)
        for kind, field in (("classes", "names"), ("semantic classes", "semantic_names")):
            old, new = getattr(saved_classes, field), getattr(classes, field)
            # Older versions did not save the names of semantic classes.
            if old != new and not (field == "semantic_names" and not old):
                raise ValueError(
                    f"{folder} holds a run on the {kind} {_short(old)}, the data have"
                    f" {_short(new)}: {advice}"
                )
    if (folder / CONFIG_FILE).exists():
        # Compares the JSON itself: a user's custom module can be written, but not read back.
        saved = json.loads((folder / CONFIG_FILE).read_text())["config"]["fields"]
        now = json.loads(json.dumps(to_json(config)))["fields"]
        if differences := differing_fields(saved["model"], now["model"]):
            raise ValueError(
                f"{folder} holds a run of another model: {'; '.join(differences[:5])}: {advice}"
            )
        for name in sorted(now.keys() - {"model", "workdir"}):
            for line in differing_fields(saved.get(name), now[name], name):
                holds = "the new value holds" if name != "init_from" else "neither is read again"
                say(f"{line}: {holds} from step {step + 1} on")


def differing_fields(saved: Any, new: Any, name: str = "model") -> list[str]:
    """Describes the differences between two configs in JSON form, one line each."""
    if isinstance(saved, dict) and isinstance(new, dict) and saved.get("class") == new.get("class"):
        old, fresh = saved.get("fields", saved), new.get("fields", new)
        return [
            line
            for field in sorted(old.keys() | fresh.keys())
            for line in differing_fields(old.get(field), fresh.get(field), f"{name}.{field}")
        ]
    if isinstance(saved, list) and isinstance(new, list) and len(saved) == len(new):
        return [
            line
            for index, (old, fresh) in enumerate(zip(saved, new, strict=True))
            for line in differing_fields(old, fresh, f"{name}.{index}")
        ]
    return [] if saved == new else [f"{name} was {_brief(saved)} and is {_brief(new)}"]


def check_frozen(frozen_paths: Sequence[str], untrained: Sequence[str]) -> None:
    """Rejects randomly initialised weights that are frozen and so would never be trained.

    Args:
      frozen_paths: prefixes of parameters and statistics that are not trained.
      untrained: names of the randomly initialised variables, such as
        "params/backbone/stem_conv/kernel".

    Raises:
      ValueError: if any of them is frozen; the message lists the prefixes.
    """
    names = [name.partition("/")[2] for name in untrained]
    stuck = [prefix for prefix in frozen_paths if any(under_any(n, (prefix,)) for n in names)]
    if stuck:
        raise ValueError(
            f"{', '.join(stuck)} are frozen, but their weights are random and nothing would ever"
            " train them: give trained ones with --init-from=RUN (segjax.save_run makes a run of"
            " converted weights), or train them with --model.backbone.frozen-stages=0"
        )


def _short(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''} ({len(names)})"


def _brief(value: Any) -> Any:
    return value["class"] if isinstance(value, dict) and "class" in value else value
