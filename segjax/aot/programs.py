"""Lowers the programs of a run from shapes only, without data, weights or devices."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from segjax.config import TrainConfig
from segjax.data.config import DataConfig
from segjax.data.pipeline import empty_batch
from segjax.figure_ground.bottom_up import bottom_up
from segjax.figure_ground.refine import MaskRefinement
from segjax.models.variables import init_variables
from segjax.results.postprocess import map_canvas, maps_original, predict_original
from segjax.train.optim import backbone_layers, learning_rate, make_optimizer
from segjax.train.parallel import AXIS, BATCH_FIELDS, Devices, compile_step
from segjax.train.resolve import resolve
from segjax.train.state import init_state
from segjax.train.step import make_step
from segjax.types import Batch

# Default numbers of classes if neither config nor data define them: COCO's things, and its things
# and stuff.
NUM_CLASSES, SEMANTIC_CLASSES = 80, 133


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Shapes and devices that a program is lowered for.

    Attributes:
      per_device: number of images on each device.
      canvas: (height, width) of the padded images, in pixels.
    """

    per_device: int
    canvas: tuple[int, int]


def completed(config: TrainConfig) -> TrainConfig:
    """Fills in the config fields that a run would set from its data.

    Raises:
      ValueError: if model and data do not match, as in training.
    """
    model = config.model
    counts = model.classes
    things = 0 if counts.things is None else counts.things or NUM_CLASSES
    pixels = 0 if counts.pixels is None else counts.pixels or SEMANTIC_CLASSES
    return resolve(config, [str(i) for i in range(things)], [str(i) for i in range(pixels)])


def usual_canvas(data: DataConfig) -> tuple[int, int]:
    """Returns the canvas of a run's landscape images: (height, width) in pixels.

    Raises:
      ValueError: if the canvas depends on the size of the images.
    """

    def rounded(height: int, width: int) -> tuple[int, int]:
        by = data.size_divisor
        return -(-height // by) * by, -(-width // by) * by

    if data.buckets:
        return max(data.buckets, key=lambda canvas: (canvas[1] >= canvas[0], canvas))
    if data.resize == "shortest_edge":
        return rounded(min(max(data.short_side), data.long_side), data.long_side)
    if data.size is not None:
        return rounded(*data.size)
    if data.shapes is not None:
        return rounded(data.shapes.image_size, data.shapes.image_size)
    raise ValueError(
        'resize="none" leaves the size to the images: give --image-size HEIGHT WIDTH, or'
        " --data.buckets"
    )


def lower_train(config: TrainConfig, devices: Devices, shapes: Shapes) -> jax.stages.Lowered:
    """Lowers the training step, as `segjax.train` compiles it.

    Args:
      config: config from `completed`.
      devices: devices of a mesh, real or compile-only.
      shapes: shapes of the batch.
    """
    model = config.model
    frozen = model.frozen_paths()
    optimizer = make_optimizer(config.optim, config.steps, frozen, *backbone_layers(model))
    schedule = learning_rate(config.optim, config.steps)
    step = make_step(model, optimizer, schedule, frozen, config.accumulate)
    devices.check_batch_size(shapes.per_device * len(devices.devices), config.accumulate)
    state = jax.eval_shape(lambda key: init_state(init_variables(model, key), optimizer), _key())
    rows = shapes.per_device * len(devices.devices)
    data = config.data
    if model.classes.pixels is None:
        data = dataclasses.replace(data, semantic="none")
    arrays = empty_batch(rows, shapes.canvas, data)
    fields = {name: arrays[name] for name in BATCH_FIELDS if name in arrays}
    batch = jax.eval_shape(lambda fields: Batch(**fields), fields)
    compiled: Any = compile_step(step, devices, lambda batch: None)
    whole = NamedSharding(devices.mesh, P())
    return compiled.lower(
        _placed(state, whole),
        _placed(batch, NamedSharding(devices.mesh, P(AXIS))),
        _placed(jax.eval_shape(_key), whole),
    )


def lower_predict(config: TrainConfig, devices: Devices, shapes: Shapes) -> jax.stages.Lowered:
    """Lowers the prediction, as evaluation and `Predictor` run it, for the first device."""
    whole, arguments = _prediction_inputs(config, devices, shapes)
    return predict_original.lower(config.model, *_placed(arguments, whole))


def lower_maps(config: TrainConfig, devices: Devices, shapes: Shapes) -> jax.stages.Lowered:
    """Lowers the computation of maps from a prediction, for the first device."""
    model = config.model
    whole, arguments = _prediction_inputs(config, devices, shapes)
    found = jax.eval_shape(lambda *a: predict_original(model, *a), *arguments)
    return maps_original.lower(
        model,
        *_placed((found, *arguments[2:]), whole),
        padded_size=shapes.canvas,
        canvas=map_canvas(*shapes.canvas),
    )


def _prediction_inputs(
    config: TrainConfig, devices: Devices, shapes: Shapes
) -> tuple[NamedSharding, tuple[Any, ...]]:
    """Returns the sharding, and variables, images, resized and original sizes of the images."""
    arrays = empty_batch(shapes.per_device, shapes.canvas, config.data)
    variables = jax.eval_shape(lambda key: init_variables(config.model, key), _key())
    inputs = (arrays["images"], arrays["image_sizes"], arrays["original_sizes"])
    one = dataclasses.replace(devices, mode="jit", devices=devices.devices[:1])
    return NamedSharding(one.mesh, P()), (variables, *inputs)


def lower_refined(config: TrainConfig, devices: Devices, shapes: Shapes) -> jax.stages.Lowered:
    """Lowers the prediction with mask refinement, for the first device."""
    whole, arguments = _prediction_inputs(config, devices, shapes)
    refine = MaskRefinement()
    return predict_original.lower(config.model, *_placed(arguments, whole), refine=refine)


def lower_bottom_up(config: TrainConfig, devices: Devices, shapes: Shapes) -> jax.stages.Lowered:
    """Lowers bottom-up segmentation of the images, without a model, for the first device."""
    whole, (_, images, *_) = _prediction_inputs(config, devices, shapes)
    return jax.jit(jax.vmap(bottom_up)).lower(_placed(images, whole))


Lower = Callable[[TrainConfig, Devices, Shapes], jax.stages.Lowered]
PROGRAMS: dict[str, Lower] = {
    "train": lower_train,
    "predict": lower_predict,
    "maps": lower_maps,
    "refine": lower_refined,
    "bottom_up": lower_bottom_up,
}


def programs_of(config: TrainConfig) -> tuple[str, ...]:
    """Returns the programs of a run: "train", "predict", and "maps" if there are semantic maps."""
    maps = "semantic" in config.model.tasks
    return ("train", "predict", "maps") if maps else ("train", "predict")


def check_programs(config: TrainConfig, names: Sequence[str]) -> None:
    """Raises a `ValueError` for a program that does not exist for the config's model."""
    model = config.model
    refined = ("refine",) if "masks" in model.tasks else ()
    known = (*programs_of(config), *refined, "bottom_up")
    for name in names:
        if name not in known:
            raise ValueError(f"no program {name!r}: of this config there are {', '.join(known)}")


def per_device_batch(config: TrainConfig, what: str, num_devices: int) -> int:
    """Returns the number of images per device according to the config.

    Raises:
      ValueError: if the batch cannot be split equally over the devices.
    """
    if what != "train":
        return config.data.eval_batch_size  # prediction runs on one device
    images = config.data.batch_size
    if images % num_devices:
        raise ValueError(
            f"a batch of {images} images cannot be split over {num_devices} devices: choose"
            " --per-device-batch, or a multiple with --data.batch-size"
        )
    return images // num_devices


def _key() -> jax.Array:
    return jax.random.key(0)


def _placed(tree: Any, sharding: NamedSharding) -> Any:
    """Returns the shapes and dtypes of a tree's arrays, with a sharding."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def mesh_devices(config: TrainConfig, devices: Sequence[Any]) -> Devices:
    """Makes the `Devices` that a run would use.

    Raises:
      ValueError: for pmap, which cannot be lowered for devices that are not present, or for
        `parallel="jit"` with several devices.
    """
    if config.parallel == "pmap":
        raise ValueError(
            'parallel="pmap" cannot be compiled ahead of time: set --parallel=shard_map, whose'
            " numbers are the same"
        )
    if config.parallel == "jit" and len(devices) > 1:
        raise ValueError(f'parallel="jit" runs on one device, the target has {len(devices)}')
    mode = "shard_map" if config.parallel == "shard_map" or len(devices) > 1 else "jit"
    return Devices(mode, tuple(devices))
