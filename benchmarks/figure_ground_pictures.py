"""Draws the pictures of docs/figure_ground.md, all of synthetic creatures.

    python -m benchmarks.figure_ground_pictures

Learns fragments as the class experiment does, and draws the first test images of the seed.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from benchmarks import class_experiment
from segjax.figure_ground.combined import combine
from segjax.figure_ground.fragments import Fragments, TopDownConfig
from segjax.figure_ground.fragments_learn import learn_fragments
from segjax.figure_ground.fragments_match import find_peaks, grey_levels
from segjax.figure_ground.hierarchy import Hierarchy
from segjax.figure_ground.top_down import top_down
from segjax.results.draw.objects import enlarge

FOLDER = Path(__file__).parent.parent / "docs" / "figure_ground"
SEED = 4
# Rows of the combined picture, and the index of the image that the other pictures show.
ROWS, SHOWN = 4, 0
# Number of detections drawn.
FRAMES = 12
SCALE, GAP, CAPTION = 2, 6, 16
# A small palette keeps the PNGs small.
COLOURS = 96
RED = (230, 30, 30)


def main() -> None:
    """Learns the fragments and draws all pictures."""
    task = class_experiment.creatures(SEED)
    maps = class_experiment.label_maps(
        class_experiment.group(task.train.images), class_experiment.SEGMENTS
    )
    fragments = learn_fragments(task.train.images, task.train.grounds, maps, task.config, SEED)
    images, masks = task.test.images[:ROWS], task.test.masks[:ROWS]
    FOLDER.mkdir(parents=True, exist_ok=True)
    hierarchies = class_experiment.group(images)
    save("hierarchy", [hierarchy_row(images[SHOWN], of_image(hierarchies, SHOWN))])
    save("fragments", [fragments_row(fragments, [0, 1, 2, 3, 4, 5, 6, 7])])
    save("top_down", [top_down_row(images[SHOWN], fragments, task.config)])
    rows = [
        combined_row(image, mask, of_image(hierarchies, i), fragments, task.config)
        for i, (image, mask) in enumerate(zip(images, masks, strict=True))
    ]
    save("combined", rows)


def of_image(hierarchies: Hierarchy, index: int) -> Hierarchy:
    """Returns one hierarchy of a batch."""
    return jax.tree.map(lambda values: values[index], hierarchies)


def hierarchy_row(image: np.ndarray, hierarchy: Hierarchy) -> dict[str, np.ndarray]:
    """Returns the image and, for some levels, mean colours with the segments' borders."""
    row = {"image": enlarge(image, SCALE)}
    for most in (600, 150, 48, 17, 6):
        level = next(i for i, n in enumerate(hierarchy.level_sizes) if n <= most)
        nodes = np.asarray(hierarchy.segments(level))
        colours = np.asarray(hierarchy.mean_colour)[nodes] * 255
        name = f"level {level}: {len(np.unique(nodes))} segments"
        row[name] = bordered(colours.astype(np.uint8), nodes)
    return row


def bordered(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Enlarges a picture and draws a dark line one pixel wide between labels."""
    large, ids = enlarge(picture, SCALE), enlarge(labels, SCALE)
    border = np.zeros(ids.shape, bool)
    border[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    border[1:] |= ids[1:] != ids[:-1]
    return np.where(border[..., None], np.uint8(0), large)


def fragments_row(fragments: Fragments, chosen: list[int]) -> dict[str, np.ndarray]:
    """Returns each fragment's grey levels above its figure-ground label."""
    row = {}
    for index in chosen:
        size = int(fragments.sizes[index])
        patch = np.asarray(fragments.patches[index])[:size, :size]
        patch = (patch - patch.min()) / np.ptp(patch)
        label = np.asarray(fragments.labels[index])[:size, :size]
        above, below = (resized(part, 96) for part in (patch, label))
        gap = np.full((GAP, *above.shape[1:]), 255, np.uint8)
        row[f"{float(fragments.information[index]):.2f} bits"] = np.concatenate([above, gap, below])
    return row


def top_down_row(
    image: np.ndarray, fragments: Fragments, config: TopDownConfig
) -> dict[str, np.ndarray]:
    """Returns the image, the most informative fragments where they are found, and both maps."""
    found = top_down(jnp.asarray(image), fragments, config)
    places = enlarge(image, SCALE)
    for y, x, size in detections(image, fragments, config)[:FRAMES]:
        places = framed(places, y, x, size)
    return {
        "image": enlarge(image, SCALE),
        f"{FRAMES} fragments found": places,
        "probability": grey_picture(found.probability),
        "confidence": grey_picture(found.confidence),
    }


def detections(
    image: np.ndarray, fragments: Fragments, config: TopDownConfig
) -> list[tuple[int, int, int]]:
    """Returns rows, columns and sides of the detections in pixels, most informative first."""
    cells = grey_levels(jnp.asarray(image)[None], config.downsample)
    peaks = find_peaks(cells, fragments.patches, fragments.sizes, config.peaks)
    is_found = np.asarray(peaks.scores)[0] >= np.asarray(fragments.thresholds)[:, None]
    order = np.argsort(-np.asarray(fragments.information), kind="stable")
    step, sizes = config.downsample, np.asarray(fragments.sizes)
    return [
        (step * int(peaks.y[0, f, p]), step * int(peaks.x[0, f, p]), step * int(sizes[f]))
        for f in order
        for p in np.flatnonzero(is_found[f])
    ]


def combined_row(
    image: np.ndarray,
    mask: np.ndarray,
    hierarchy: Hierarchy,
    fragments: Fragments,
    config: TopDownConfig,
) -> dict[str, np.ndarray]:
    """Returns the image and the result of each method next to the ground truth."""
    found = top_down(jnp.asarray(image), fragments, config)
    both = combine(hierarchy, found.probability, found.confidence)
    batch = jax.tree.map(lambda values: values[None], hierarchy)
    ((tree, nodes),) = class_experiment.trees_and_nodes(batch)
    return {
        "image": enlarge(image, SCALE),
        "bottom-up rule": figure(
            image, class_experiment.salient(tree, nodes, *class_experiment.RULE)
        ),
        "top-down": figure(image, np.asarray(found.probability) > 0.5),
        "combined": figure(image, np.asarray(both.map)),
        "its probability": grey_picture(both.soft),
        "ground truth": figure(image, mask),
    }


def figure(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draws the figure on white with a red contour."""
    shown = np.where(mask[..., None], image, np.uint8(255))
    large, inside = enlarge(shown, SCALE), enlarge(mask, SCALE)
    padded = np.pad(inside, 1)
    shifts = (padded[2:, 1:-1], padded[:-2, 1:-1], padded[1:-1, 2:], padded[1:-1, :-2])
    contour = inside & ~functools.reduce(np.logical_and, shifts)
    return np.where(contour[..., None], np.array(RED, np.uint8), large)


def framed(picture: np.ndarray, y: int, x: int, size: int) -> np.ndarray:
    canvas = Image.fromarray(picture)
    corners = [x * SCALE, y * SCALE, (x + size) * SCALE - 1, (y + size) * SCALE - 1]
    ImageDraw.Draw(canvas).rectangle(corners, outline=RED)
    return np.asarray(canvas)


def grey_picture(values: jax.Array) -> np.ndarray:
    """Renders a map in 0..1 from black to white."""
    levels = np.round(255 * np.asarray(values)).astype(np.uint8)
    return enlarge(np.repeat(levels[..., None], 3, axis=2), SCALE)


def resized(values: np.ndarray, side: int) -> np.ndarray:
    """Enlarges a small map in 0..1 so that its cells are visible."""
    picture = Image.fromarray(np.round(255 * values).astype(np.uint8)).convert("RGB")
    return np.asarray(picture.resize((side, side), Image.Resampling.NEAREST))


def save(name: str, rows: list[dict[str, np.ndarray]]) -> None:
    """Arranges captioned pictures in rows and writes them as one PNG."""
    height, width = next(iter(rows[0].values())).shape[:2]
    size = (len(rows[0]) * (width + GAP) - GAP, len(rows) * (height + GAP) + CAPTION - GAP)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for column, caption in enumerate(rows[0]):
        draw.text((column * (width + GAP) + 2, 2), caption, fill="black")
    for index, row in enumerate(rows):
        for column, picture in enumerate(row.values()):
            place = (column * (width + GAP), CAPTION + index * (height + GAP))
            canvas.paste(Image.fromarray(picture), place)
    path = FOLDER / f"{name}.png"
    canvas.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
