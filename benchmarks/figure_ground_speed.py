"""Seconds that a segmentation hierarchy and the refinement of masks take, after compilation.

    python -m benchmarks.figure_ground_speed

Both ways to coarsen are measured. Images are the synthetic set's: shapes over textured grounds,
drawn at each size, so that objects grow with the images. The exponent is the slope of log seconds
over log pixels, by least squares: 1 is linear. `least` is the fastest run, `median` that of all.
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from benchmarks import machine
from segjax.data.shapes import ShapesConfig, draw
from segjax.figure_ground.bottom_up import BottomUp, bottom_up
from segjax.figure_ground.bottom_up_seeds import Aggregation
from segjax.figure_ground.refine import refine_in_hierarchy

WAYS = {"bottom_up": BottomUp(), "weighted_aggregation": BottomUp(aggregation=Aggregation())}
SIDES = (128, 256, 512, 1024)
REFINED = ((512, 512), (800, 1344))
RUNS, DETECTIONS, CELLS = 15, 100, 28


def main() -> None:
    """Measures and writes benchmarks/results/figure_ground_speed.json."""
    results: dict[str, Any] = {name: growth(name, config) for name, config in WAYS.items()}
    results["refine"] = {f"{h} x {w}": refine_seconds(h, w) for h, w in REFINED}
    results["detections"] = DETECTIONS
    results["machine"] = machine.describe(("jax", "jaxlib"))
    machine.write("figure_ground_speed", results)


def growth(name: str, config: BottomUp) -> dict[str, Any]:
    """Times of `bottom_up` at every size, and how they grow."""
    sizes = {str(side): hierarchy_seconds(picture(side, side), config) for side in SIDES}
    pixels = [side * side for side in SIDES]
    exponents = {}
    for kind in ("least", "median"):
        exponent = slope(pixels, [times[f"{kind}_s"] for times in sizes.values()])
        exponents[f"exponent_{kind}"] = exponent
        print(f"{name}: exponent of the {kind} times {exponent:.3f}")
    return {"sizes": sizes, **exponents}


def hierarchy_seconds(image: UInt8[np.ndarray, "h w 3"], config: BottomUp) -> dict[str, float]:
    """Times of `bottom_up` for an image."""
    grouped, seconds = compiled(functools.partial(bottom_up, config=config), jnp.asarray(image))
    times = timed(grouped, jnp.asarray(image))
    megapixels = image.shape[0] * image.shape[1] / 1e6
    rates = {
        f"megapixels_a_minute_{kind}": 60 * megapixels / times[f"{kind}_s"]
        for kind in ("least", "median")
    }
    return {"compile_s": seconds, **times, **rates}


def refine_seconds(height: int, width: int) -> dict[str, float]:
    """Times of refining the masks of random boxes in the hierarchy of an image."""
    rng = np.random.default_rng(1)
    hierarchy = jax.jit(bottom_up)(jnp.asarray(picture(height, width)))
    centres = rng.uniform(0, 1, (DETECTIONS, 2)) * (width, height)
    halves = rng.uniform(8, min(height, width) / 3, (DETECTIONS, 2))
    boxes = jnp.asarray(np.concatenate([centres - halves, centres + halves], 1), jnp.float32)
    masks = jnp.asarray(rng.uniform(0, 1, (DETECTIONS, CELLS, CELLS)), jnp.float32)
    refine, seconds = compiled(refine_in_hierarchy, hierarchy, masks, boxes)
    return {"compile_s": seconds, **timed(refine, hierarchy, masks, boxes)}


def compiled(function: Callable[..., Any], *arguments: Any) -> tuple[Callable[..., Any], float]:
    """A function compiled for arguments, and the seconds that this took."""
    started = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    return program, time.perf_counter() - started


def timed(program: Callable[..., Any], *arguments: Any) -> dict[str, float]:
    """Least and median seconds of some runs, after one that does not count."""
    jax.block_until_ready(program(*arguments))
    seconds = []
    for _ in range(RUNS):
        started = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        seconds.append(time.perf_counter() - started)
    return {"least_s": min(seconds), "median_s": statistics.median(seconds), "runs": RUNS}


def slope(pixels: list[int], seconds: list[float]) -> float:
    """Exponent of growth, by least squares of the logarithms."""
    return float(np.polyfit(np.log(pixels), np.log(seconds), 1)[0])


@functools.cache
def picture(height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Shapes over grounds."""
    side = max(height, width)
    config = ShapesConfig(
        image_size=side,
        max_objects=8,
        min_side=side // 8,
        max_side=side // 2,
        stuff_regions=4,
        crowd_fraction=0.0,
        empty_fraction=0.0,
    )
    return draw(config, np.random.default_rng(3)).image[:height, :width]


if __name__ == "__main__":
    main()
