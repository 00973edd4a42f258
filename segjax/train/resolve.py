"""Sets the config fields that depend on the data, and checks that model and data match."""

import dataclasses
import math
from collections.abc import Sequence

from segjax.config import TrainConfig
from segjax.data import pipeline
from segjax.data.config import DataConfig
from segjax.data.labels import LABELS
from segjax.nn.dtype import with_dtype
from segjax.optim import SGD
from segjax.protocols import Model
from segjax.results.classes import Classes
from segjax.train.metrics import say


def resolve(
    config: TrainConfig, class_names: Sequence[str], semantic_names: Sequence[str] = ()
) -> TrainConfig:
    """Sets the numbers of classes from the data, and the compute dtype of every module.

    Args:
      config: settings of the run.
      class_names: names of the data's classes.
      semantic_names: class names of the data's semantic labels, if there are any.

    Raises:
      ValueError: if model and data differ in the number of classes or the label of things, if the
        data config excludes objects, masks or semantic labels that the model needs, or if it pads
        images to a multiple that the model does not accept.
    """
    model = config.model
    check_objects(model, config.data)
    if config.data.size_divisor % model.padding.divisor:
        raise ValueError(
            f"--data.size-divisor is {config.data.size_divisor}, the model takes multiples of"
            f" {model.padding.divisor} pixels: set it to such a multiple"
        )
    if "masks" in model.tasks and not config.data.masks:
        raise ValueError(
            "--data.masks=False leaves out what the model's mask head learns from: set"
            " --data.masks=True, or take a model without masks (faster_rcnn)"
        )
    if model.classes.things is not None:
        model = _resolve_objects(model, class_names)
    model = _resolve_semantic(model, config.data.semantic, len(semantic_names))
    check_things(model, config.data)
    if config.compute_dtype is not None:
        model = with_dtype(model, config.compute_dtype)
    return dataclasses.replace(config, model=model)


def check_objects(model: Model, data: DataConfig) -> None:
    """Checks that the model predicts objects if and only if the data contain them.

    Args:
      model: model to check.
      data: data settings of the run.

    Raises:
      ValueError: otherwise.
    """
    if (model.classes.things is not None) == data.instances:
        return
    if data.instances:
        raise ValueError(
            "the model knows no objects, it gives the class of every pixel alone: set"
            " --data.instances=False, which trains on every image and its labels"
        )
    raise ValueError(
        "--data.instances=False leaves out the objects that the model learns from: set"
        " --data.instances=True, or take a model of semantic labels alone (semantic_fpn)"
    )


def check_things(model: Model, data: DataConfig) -> None:
    """Checks that a panoptic model and the data use the same semantic label for things.

    Plain label PNGs are not checked, as they do not say which class that is.

    Args:
      model: model to check, with its number of semantic classes set.
      data: data settings of the run.

    Raises:
      ValueError: if the labels differ.
    """
    if "panoptic" not in model.tasks or not LABELS[data.semantic].knows_things:
        return
    number, things = model.classes.pixels or 0, model.classes.thing_label
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


def with_classes(config: TrainConfig, classes: Classes) -> Model:
    """Returns the config's model, with the number of classes of its weights.

    Raises:
      ValueError: if model and `classes` differ in number, or the number of classes of the model's
        semantic branch is not set.
    """
    model = config.model
    check_objects(model, config.data)
    number, ids = len(classes.names), len(classes.category_ids)
    model = model.with_classes(things=number) if model.classes.things == 0 else model
    counts = model.classes
    if not (counts.things or 0) == number == ids:
        raise ValueError(
            f"the model has {counts.things or 'no'} classes, but there are {number} names and"
            f" {ids} category ids"
        )
    if counts.pixels == 0:
        raise ValueError(
            "the model's semantic branch leaves its number of classes to the data: give it the one"
            " that the weights are for, as in model.with_classes(pixels=183)"
        )
    names = len(classes.semantic_names)
    if names and names != counts.pixels:
        raise ValueError(
            f"the model has {counts.pixels or 'no'} semantic classes, but there are"
            f" {names} semantic names"
        )
    return model


def best_metric(config: TrainConfig) -> str | None:
    """Returns the metric that determines the best checkpoint; "auto" depends on the model."""
    if config.keep_best == "auto":
        model = config.model
        if model.classes.things is None:
            return "semantic/mIoU"
        if "panoptic" in model.tasks and config.data.semantic == "panoptic":
            return "panoptic/PQ"
        return "segm/AP" if "masks" in model.tasks else "box/AP"
    return config.keep_best


def _resolve_objects(model: Model, class_names: Sequence[str]) -> Model:
    """Sets the number of classes of a detector to the data's."""
    number = len(class_names)
    if model.classes.things == 0:
        model = model.with_classes(things=number)
    if model.classes.things != number:
        raise ValueError(
            f"the model has {model.classes.things} classes, the data has {number}"
            f" ({', '.join(class_names[:5])}, ...): leave num_classes at 0 to follow the data"
        )
    return model


def _resolve_semantic(model: Model, source: str, number: int) -> Model:
    """Sets the number of classes of a semantic branch to that of the data's labels."""
    if model.classes.pixels is None:
        return model
    if source == "none":
        ways = "; or ".join(f"--data.semantic={way} ({kind.title})" for way, kind in LABELS.items())
        raise ValueError(
            "the model has a semantic branch, but --data.semantic=none gives it nothing to learn"
            f" from: choose {ways}; or take a model without the branch, such as"
            " htc(backbone, semantic=False)"
        )
    if model.classes.pixels == 0:
        model = model.with_classes(pixels=number)
    if model.classes.pixels != number:
        raise ValueError(
            f"the model has {model.classes.pixels} semantic classes, the labels of"
            f" --data.semantic={source} have {number}: leave semantic_classes at 0 to follow the"
            " data, or choose the labels that the model is for"
        )
    return model


def semantic_wanted(config: TrainConfig) -> DataConfig:
    """Returns the data config for training, which reads semantic labels only for such a model."""
    model = config.model
    source, number = config.data.semantic, model.classes.pixels
    if source == "none":
        return config.data
    if number is None:
        say(f"semantic labels: {source!r} are not read: the model has no semantic branch")
        return dataclasses.replace(config.data, semantic="none")
    say(f"semantic labels: {source!r} ({LABELS[source].title}), {number} classes")
    return config.data


def with_epochs(config: TrainConfig, epochs: float) -> TrainConfig:
    """Sets the number of steps from a number of passes over the training images.

    Args:
      config: settings of the run; its data are opened, and prepared if necessary.
      epochs: number of passes, above 0; can be a fraction.

    Raises:
      ValueError: if `epochs` is not a finite number above 0, or there are no training images.
    """
    if not 0 < epochs < math.inf:
        raise ValueError(f"epochs is {epochs}: wanted a number above 0")
    images = len(pipeline.trained_on(pipeline.open_dataset(config.data), config.data))
    if not images:
        raise ValueError("there is no image to train on, to count epochs by")
    steps = math.ceil(epochs * images / config.data.batch_size)
    say(f"{epochs:g} epochs of {images} images, {config.data.batch_size} a step: {steps} steps")
    return dataclasses.replace(config, steps=steps)


def with_auto_lr(config: TrainConfig, recipe: TrainConfig) -> TrainConfig:
    """Scales the learning rate of a recipe to another batch size.

    The rate of SGD grows linearly with the batch (Goyal et al., 1706.02677), that of AdamW with its
    square root (Malladi et al., 2205.10287). The warm-up keeps its number of steps.

    Args:
      config: settings of the run; its learning rate must be that of the recipe.
      recipe: settings that the learning rate was chosen for.

    Returns:
      The settings with the scaled rate; what was done is printed.

    Raises:
      ValueError: if the learning rate was changed as well.
    """
    if config.optim.learning_rate != recipe.optim.learning_rate:
        raise ValueError(
            f"the learning rate is given, {config.optim.learning_rate:g}: leave out either"
            " --optim.learning-rate or --auto-lr"
        )
    factor = config.data.batch_size / recipe.data.batch_size
    linear = isinstance(config.optim.optimizer, SGD)
    rate = recipe.optim.learning_rate * (factor if linear else math.sqrt(factor))
    say(
        f"learning rate {recipe.optim.learning_rate:g} of {recipe.data.batch_size} images a step,"
        f" times {'' if linear else 'the square root of '}{factor:g} for"
        f" {config.data.batch_size}: {rate:g}"
    )
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, learning_rate=rate))
