"""Measures the compile time of one training step of every published recipe.

    python -m benchmarks.compile_times

Inputs are 2 images of 800 x 1344 pixels with 100 ground-truth rows. Nothing is cached.
"""

import functools
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks import machine
from segjax.config import load_config
from segjax.models.variables import init_variables
from segjax.train.optim import backbone_layers, learning_rate, make_optimizer
from segjax.train.state import init_state
from segjax.train.step import make_step
from segjax.types import Batch

CONFIGS = Path(__file__).parent.parent / "configs"
IMAGES, HEIGHT, WIDTH, ROWS, MASK = 2, 800, 1344, 100, 112


def main() -> None:
    """Compiles each model's training step once and writes benchmarks/results/compile_times.json."""
    # Schedules (1x, 3x) do not affect the program.
    paths = sorted(CONFIGS.glob("*_1x_coco.py"))
    seconds = {path.stem: round(compile_seconds(path), 1) for path in paths}
    machine.write("compile_times", {"seconds": seconds, "machine": machine.describe()})


def compile_seconds(path: Path) -> float:
    """Returns the seconds it takes to trace and compile the training step of a config."""
    config = load_config(path)
    frozen = config.model.frozen_paths()
    optimizer = make_optimizer(config.optim, config.steps, frozen, *backbone_layers(config.model))
    schedule = learning_rate(config.optim, config.steps)
    step = make_step(config.model, optimizer, schedule, frozen, config.accumulate)
    step = functools.partial(step, axis_name=None)
    state = jax.eval_shape(
        lambda key: init_state(init_variables(config.model, key), optimizer), jax.random.key(0)
    )
    started = time.perf_counter()
    jax.jit(step, donate_argnums=0).lower(state, batch(), jax.random.key(0)).compile()
    return time.perf_counter() - started


def batch() -> Batch:
    """Returns the shapes and dtypes of a batch."""
    shape = jax.ShapeDtypeStruct
    return Batch(
        images=shape((IMAGES, HEIGHT, WIDTH, 3), jnp.uint8),
        image_sizes=shape((IMAGES, 2), jnp.int32),
        gt_boxes=shape((IMAGES, ROWS, 4), jnp.float32),
        gt_classes=shape((IMAGES, ROWS), jnp.int32),
        gt_valid=shape((IMAGES, ROWS), jnp.bool_),
        gt_is_crowd=shape((IMAGES, ROWS), jnp.bool_),
        gt_masks=shape((IMAGES, ROWS, MASK, MASK), jnp.uint8),
        gt_mask_frames=shape((IMAGES, ROWS, 4), jnp.float32),
        gt_semantic=shape((IMAGES, HEIGHT, WIDTH), jnp.uint8),
    )


if __name__ == "__main__":
    main()
