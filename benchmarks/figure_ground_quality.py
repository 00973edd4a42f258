"""Compares boundaries and objects of `bottom_up` with scikit-image's segmentations.

    python -m benchmarks.figure_ground_quality --coco FOLDER

FOLDER is a dataset in COCO format (`annotations/instances_val.json`, `val/`); its images are
resized to 320 x 480 or 480 x 320 pixels. The synthetic sets need no files. scikit-image comes with
`pip install segjax[bench]`. Boundaries of unannotated objects count as false for every method.
"""

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int, UInt8

from benchmarks import machine
from benchmarks.figure_ground_metrics import best_overlaps, boundary, match, ods_and_ois
from segjax.data import shapes
from segjax.figure_ground import creatures
from segjax.figure_ground.bottom_up import BottomUp, bottom_up
from segjax.figure_ground.bottom_up_seeds import Aggregation

Labels = Int[np.ndarray, "h w"]
Method = Callable[[UInt8[np.ndarray, "h w 3"]], list[Labels]]

AGGREGATION = BottomUp(aggregation=Aggregation())
# Scales at which scikit-image's functions are run, corresponding to the levels of a hierarchy.
_SEGMENTS = (4, 7, 12, 20, 33, 55, 92, 153, 255, 425)
_SCALES = (20, 50, 100, 200, 400, 800, 1600, 3200, 6400, 12800)


class Sample(NamedTuple):
    """An image to segment.

    Attributes:
      image: RGB.
      objects: masks of the objects that coverage is measured on.
      edges: True on true boundaries.
    """

    image: UInt8[np.ndarray, "h w 3"]
    objects: list[Bool[np.ndarray, "h w"]]
    edges: Bool[np.ndarray, "h w"]


def main() -> None:
    """Measures every method on every set and writes the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--coco", help="folder in COCO format", required=True)
    parser.add_argument("--coco-name", help="what the results call it", default=None)
    parser.add_argument("--split", default="val")
    parser.add_argument("--images", type=int, default=60, help="of each synthetic set")
    options = parser.parse_args()
    name = options.coco_name or os.path.basename(os.path.normpath(options.coco))
    sets = {
        "shapes": shape_samples(options.images),
        "creatures": creature_samples(options.images),
        name: coco_samples(options.coco, options.split),
    }
    results: dict[str, Any] = {"tolerance": "0.0075 of the diagonal, matched by distance"}
    results["sets"] = {
        title: {"images": len(samples), "objects": sum(len(s.objects) for s in samples)}
        | {method: measure(segment, samples) for method, segment in methods().items()}
        for title, samples in sets.items()
    }
    results["dropped"] = {
        title: dropped(samples) + dropped(samples, AGGREGATION) for title, samples in sets.items()
    }
    results["machine"] = machine.describe(("jax", "jaxlib", "scikit-image"))
    machine.write("figure_ground_quality", results)


def methods() -> dict[str, Method]:
    """Returns the methods to compare, by name."""
    return {
        "bottom_up": ours,
        "weighted_aggregation": functools.partial(ours, config=AGGREGATION),
        "felzenszwalb": felzenszwalb,
        "slic": slic,
    }


def ours(image: UInt8[np.ndarray, "h w 3"], config: BottomUp = BottomUp()) -> list[Labels]:
    """Returns all levels, coarsest first, so that scales of different images correspond."""
    hierarchy = jax.tree.map(np.asarray, _compiled(config)(image))
    labels = [hierarchy.leaf]
    for _ in hierarchy.level_sizes[1:]:
        labels.append(hierarchy.parent[labels[-1]])
    return labels[::-1]


def dropped(samples: list[Sample], config: BottomUp = BottomUp()) -> list[int]:
    """Returns the borders and segments over capacity, for each image that has any."""
    counts = [int(_compiled(config)(sample.image).dropped) for sample in samples]
    return [count for count in counts if count]


@functools.cache
def _compiled(config: BottomUp) -> Callable[..., Any]:
    return jax.jit(functools.partial(bottom_up, config=config))


def felzenszwalb(image: UInt8[np.ndarray, "h w 3"]) -> list[Labels]:
    """Felzenszwalb & Huttenlocher (2004) at many scales; minimum size is a quarter of the scale."""
    from skimage import segmentation

    return [
        segmentation.felzenszwalb(image, scale=scale, min_size=max(scale // 4, 5))
        for scale in _SCALES
    ]


def slic(image: UInt8[np.ndarray, "h w 3"]) -> list[Labels]:
    """SLIC (Achanta et al. 2012) with varying numbers of segments."""
    from skimage import segmentation

    return [segmentation.slic(image, n_segments=n, start_label=0) for n in _SEGMENTS]


def measure(segment: Method, samples: list[Sample]) -> dict[str, float]:
    """Returns a method's scores on a set and its seconds per image over all scales."""
    for shape in {s.image.shape for s in samples}:
        segment(np.zeros(shape, np.uint8))  # compiles
    seconds, matches, overlaps, areas, number = [], [], [], [], []
    for sample in samples:
        started = time.perf_counter()
        labels = segment(sample.image)
        seconds.append(time.perf_counter() - started)
        matches.append([match(boundary(x), sample.edges) for x in labels])
        overlaps.extend(best_overlaps(labels, sample.objects))
        areas.extend(mask.sum() for mask in sample.objects)
        number.append(sum(np.unique(x).size for x in labels))
    ods, ois = ods_and_ois(matches)
    return {
        "boundary_f_ods": ods,
        "boundary_f_ois": ois,
        "coverage": float(np.mean(overlaps)),
        "coverage_by_area": float(np.average(overlaps, weights=areas)),
        "scales": len(matches[0]),
        "segments_an_image": statistics.mean(number),
        "seconds_an_image": statistics.median(seconds),
    }


def shape_samples(number: int) -> list[Sample]:
    """Shapes over textured grounds. Borders between grounds count as boundaries."""
    config = shapes.ShapesConfig(stuff_regions=4, crowd_fraction=0.0, empty_fraction=0.0)
    samples = []
    for i in range(number):
        picture = shapes.draw(config, np.random.default_rng([7, i]))
        objects = [mask for _, mask, _ in picture.objects]
        seen = picture.ground.astype(np.int64)
        for k, mask in enumerate(objects):
            seen[mask] = 100 + k
        samples.append(Sample(picture.image, objects, boundary(seen)))
    return samples


def creature_samples(number: int) -> list[Sample]:
    """Striped creatures on cluttered ground. Only the creatures' outlines count as boundaries."""
    config = creatures.CreaturesConfig(image_size=128, num_creatures=number, num_grounds=0, seed=7)
    made = creatures.generate(config)
    return [
        Sample(image, [mask], boundary(mask))
        for image, mask in zip(made.images, made.masks, strict=True)
    ]


def coco_samples(root: str, split: str, least: int = 100) -> list[Sample]:
    """Photographs with their objects of at least `least` pixels; crowds are skipped."""
    import cv2

    from segjax.data import rle
    from segjax.data.coco import load_coco

    dataset = load_coco(f"{root}/annotations/instances_{split}.json", f"{root}/{split}")
    samples = []
    for record in dataset.images:
        size = (480, 320) if record.width >= record.height else (320, 480)
        image = cv2.imread(f"{root}/{split}/{record.file_name}", cv2.IMREAD_COLOR)[..., ::-1]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        objects = []
        for note in record.annotations:
            if note.counts and not note.is_crowd:
                code = rle.Rle(size=[record.height, record.width], counts=note.counts)
                mask = cv2.resize(rle.decode(code), size, interpolation=cv2.INTER_NEAREST)
                objects.append(mask.astype(bool))
        objects = [mask for mask in objects if mask.sum() >= least]
        if objects:
            edges = np.any([boundary(mask) for mask in objects], axis=0)
            samples.append(Sample(np.ascontiguousarray(image), objects, edges))
    return samples


if __name__ == "__main__":
    main()
