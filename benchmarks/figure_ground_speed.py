"""Times the segmentation hierarchy and the refinement of masks, without compilation.

    python -m benchmarks.figure_ground_speed

Measures both coarsening methods. Images come from the synthetic set (shapes over textured grounds)
and are drawn at each size, so that objects grow with the image. The exponent is the least-squares
slope of log seconds over log pixels: 1 means linear. `least` is the fastest run, `median` the
median.
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
    """Runs all measurements and writes benchmarks/results/figure_ground_speed.json."""
    results: dict[str, Any] = {name: growth(name, config) for name, config in WAYS.items()}
    results["refine"] = {f"{h} x {w}": refine_seconds(h, w) for h, w in REFINED}
    results["detections"] = DETECTIONS
    results["machine"] = machine.describe(("jax", "jaxlib"))
    machine.write("figure_ground_speed", results)


def growth(name: str, config: BottomUp) -> dict[str, Any]:
    """Returns the times of `bottom_up` at every size and their growth exponent."""
    sizes = {str(side): hierarchy_seconds(picture(side, side), config) for side in SIDES}
    pixels = [side * side for side in SIDES]
    exponents = {}
    for kind in ("least", "median"):
        exponent = slope(pixels, [times[f"{kind}_s"] for times in sizes.values()])
        exponents[f"exponent_{kind}"] = exponent
        print(f"{name}: exponent of the {kind} times {exponent:.3f}")
    return {"sizes": sizes, **exponents}


def hierarchy_seconds(image: UInt8[np.ndarray, "h w 3"], config: BottomUp) -> dict[str, float]:
    """Times `bottom_up` on one image."""
    grouped, seconds = compiled(functools.partial(bottom_up, config=config), jnp.asarray(image))
    times = timed(grouped, jnp.asarray(image))
    megapixels = image.shape[0] * image.shape[1] / 1e6
    rates = {
        f"megapixels_a_minute_{kind}": 60 * megapixels / times[f"{kind}_s"]
        for kind in ("least", "median")
    }
    return {"compile_s": seconds, **times, **rates}


def refine_seconds(height: int, width: int) -> dict[str, float]:
    """Times the refinement of masks of random boxes, given an image's hierarchy."""
    rng = np.random.default_rng(1)
    hierarchy = jax.jit(bottom_up)(jnp.asarray(picture(height, width)))
    centres = rng.uniform(0, 1, (DETECTIONS, 2)) * (width, height)
    halves = rng.uniform(8, min(height, width) / 3, (DETECTIONS, 2))
    boxes = jnp.asarray(np.concatenate([centres - halves, centres + halves], 1), jnp.float32)
    masks = jnp.asarray(rng.uniform(0, 1, (DETECTIONS, CELLS, CELLS)), jnp.float32)
    refine, seconds = compiled(refine_in_hierarchy, hierarchy, masks, boxes)
    return {"compile_s": seconds, **timed(refine, hierarchy, masks, boxes)}


def compiled(function: Callable[..., Any], *arguments: Any) -> tuple[Callable[..., Any], float]:
    """Compiles a function for its arguments; returns it with the seconds this took."""
    started = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    return program, time.perf_counter() - started


def timed(program: Callable[..., Any], *arguments: Any) -> dict[str, float]:
    """Returns the least and the median seconds of several runs, after one warm-up run."""
    jax.block_until_ready(program(*arguments))
    seconds = []
    for _ in range(RUNS):
        started = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        seconds.append(time.perf_counter() - started)
    return {"least_s": min(seconds), "median_s": statistics.median(seconds), "runs": RUNS}


def slope(pixels: list[int], seconds: list[float]) -> float:
    """Returns the growth exponent, the least-squares slope of the logarithms."""
    return float(np.polyfit(np.log(pixels), np.log(seconds), 1)[0])


@functools.cache
def picture(height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Returns an image of shapes over textured grounds."""
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
