"""What a config leaves to the data, and whether model and data fit together."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn

from segjax.config import TrainConfig
from segjax.data.config import DataConfig
from segjax.data.labels import LABELS
from segjax.results.classes import Classes, gives_instances, gives_panoptic
from segjax.train.metrics import say
from segjax.types import Dtype


def resolve(
    config: TrainConfig, class_names: Sequence[str], semantic_names: Sequence[str] = ()
) -> TrainConfig:
    """Fills in what the config leaves to the data, and the compute dtype of every part.

    Args:
      config: of the run.
      class_names: of the data.
      semantic_names: classes of the data's semantic labels, if it has any.

    Raises:
      ValueError: if the model is for another number of classes than the data has, or for objects,
        masks or semantic labels that the data shall not give, or for other labels of things.
    """
    model: Any = config.model
    check_objects(model, config.data)
    if model.has_masks and not config.data.masks:
        raise ValueError(
            "--data.masks=False leaves out what the model's mask head learns from: set"
            " --data.masks=True, or take a model without masks (faster_rcnn_resnet_fpn)"
        )
    if gives_instances(model):
        model = _resolve_objects(model, class_names)
    model = _resolve_semantic(model, config.data.semantic, len(semantic_names))
    check_things(model, config.data)
    if config.compute_dtype is not None:
        model = with_dtype(model, config.compute_dtype)
    return dataclasses.replace(config, model=model)


def check_objects(model: Any, data: DataConfig) -> None:
    """Raises a `ValueError` if the data give objects to a model that knows none, or none to others.

    Args:
      model: any.
      data: of the run.
    """
    if gives_instances(model) == data.instances:
        return
    if data.instances:
        raise ValueError(
            "the model knows no objects, it gives the class of every pixel alone: set"
            " --data.instances=False, which trains on every image and its labels"
        )
    raise ValueError(
        "--data.instances=False leaves out the objects that the model learns from: set"
        " --data.instances=True, or take a model of semantic labels alone (semantic_fpn_resnet)"
    )


def check_things(model: Any, data: DataConfig) -> None:
    """Raises a `ValueError` if a panoptic model takes another label than the data's for things.

    Plain label PNGs are not checked: they do not say which class that is.

    Args:
      model: any, its semantic classes filled in.
      data: of the run.
    """
    if not gives_panoptic(model) or not LABELS[data.semantic].knows_things:
        return
    number, things = int(model.semantic_classes), model.merge.things
    known = {None: "no label", 0: "first", number - 1: "last", -1: "last"}
    if known.get(things) == data.merge_things:
        return
    advice = (
        f"set --data.merge-things={known[things]}"
        if things is not None and things in known
        else "set --data.merge-things=first and --model.merge.things=0"
    )
    raise ValueError(
        f"the model's merge takes {'no label' if things is None else f'label {things}'} for the"
        f" things, --data.merge-things={data.merge_things} labels them otherwise: {advice}"
    )


def with_classes(config: TrainConfig, classes: Classes) -> Any:
    """The model of a config for the classes that its weights are for.

    Raises:
      ValueError: if their numbers differ, or the model's semantic branch has none yet.
    """
    model: Any = config.model
    check_objects(model, config.data)
    number, ids = len(classes.names), len(classes.category_ids)
    model = model.with_num_classes(number) if model.num_classes == 0 else model
    if not (model.num_classes or 0) == number == ids:
        raise ValueError(
            f"the model has {model.num_classes or 'no'} classes, but there are {number} names and"
            f" {ids} category ids"
        )
    if model.semantic_classes == 0:
        raise ValueError(
            "the model's semantic branch leaves its number of classes to the data: give it the one"
            " that the weights are for, as in model.with_semantic_classes(183)"
        )
    names = len(classes.semantic_names)
    if names and names != model.semantic_classes:
        raise ValueError(
            f"the model has {model.semantic_classes or 'no'} semantic classes, but there are"
            f" {names} semantic names"
        )
    return model


def best_metric(config: TrainConfig) -> str | None:
    """The metric that decides which checkpoint is best; "auto" goes by the model."""
    if config.keep_best == "auto":
        model: Any = config.model
        if not gives_instances(model):
            return "semantic/mIoU"
        if gives_panoptic(model) and config.data.semantic == "panoptic":
            return "panoptic/PQ"
        return "segm/AP" if model.has_masks else "box/AP"
    return config.keep_best


def _resolve_objects(model: Any, class_names: Sequence[str]) -> Any:
    """Gives a detector as many classes as the data have."""
    number = len(class_names)
    if model.num_classes == 0:
        model = model.with_num_classes(number)
    if model.num_classes != number:
        raise ValueError(
            f"the model has {model.num_classes} classes, the data has {number}"
            f" ({', '.join(class_names[:5])}, ...): leave num_classes at 0 to follow the data"
        )
    return model


def _resolve_semantic(model: Any, source: str, number: int) -> Any:
    """Gives a semantic branch as many classes as the data's labels have."""
    if model.semantic_classes is None:
        return model
    if source == "none":
        ways = "; or ".join(f"--data.semantic={way} ({kind.title})" for way, kind in LABELS.items())
        raise ValueError(
            "the model has a semantic branch, but --data.semantic=none gives it nothing to learn"
            f" from: choose {ways}; or take a model without the branch, such as"
            " htc_resnet_fpn(semantic=False)"
        )
    if model.semantic_classes == 0:
        model = model.with_semantic_classes(number)
    if model.semantic_classes != number:
        raise ValueError(
            f"the model has {model.semantic_classes} semantic classes, the labels of"
            f" --data.semantic={source} have {number}: leave semantic_classes at 0 to follow the"
            " data, or choose the labels that the model is for"
        )
    return model


def semantic_wanted(config: TrainConfig) -> DataConfig:
    """The data as training reads them: with semantic labels only if the model learns from them."""
    model: Any = config.model
    source, number = config.data.semantic, model.semantic_classes
    if source == "none":
        return config.data
    if number is None:
        say(f"semantic labels: {source!r} are not read: the model has no semantic branch")
        return dataclasses.replace(config.data, semantic="none")
    say(f"semantic labels: {source!r} ({LABELS[source].title}), {number} classes")
    return config.data


def with_dtype(part: Any, dtype: Dtype) -> Any:
    """Returns a module with the `dtype` of itself and of all modules inside replaced."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if field.name == "dtype":
            changes["dtype"] = dtype
        elif isinstance(value, nn.Module) and field.name != "parent":
            changes[field.name] = with_dtype(value, dtype)
        elif isinstance(value, tuple) and any(isinstance(v, nn.Module) for v in value):
            changes[field.name] = tuple(with_dtype(v, dtype) for v in value)
    return part.clone(**changes)
