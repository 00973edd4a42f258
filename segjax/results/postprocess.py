"""From a model's fixed-shape detections to objects in original pixels.

Boxes follow Detectron2's `detector_postprocess`: scaled per axis, clipped to the image, empty
ones dropped; `mask_encoding` does the masks. Semantic and panoptic maps are made on the device,
at the image's size inside a canvas of fixed size.
"""

# pyright: strict, reportUnknownMemberType=false, reportMissingTypeStubs=false
# jax.jit and lax.map forget types:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float32, Int32, Integer, UInt8

from segjax.data import rle
from segjax.figure_ground.refine import MaskRefinement
from segjax.ops.boxes import nonempty, rescale_boxes
from segjax.ops.panoptic import PanopticSegments, semantic_labels
from segjax.protocols import Model, PanopticModel
from segjax.results.classes import Classes
from segjax.results.detections import ImageDetections
from segjax.results.maps import PanopticMap, SemanticMap, check_label_count
from segjax.results.mask_encoding import encode_masks
from segjax.results.panoptic_collect import collect_panoptic
from segjax.results.result import Result
from segjax.types import IGNORE, Detections, struct

# The shortest that the longer side of a map's canvas can be, in pixels; a multiple of 16.
SMALLEST_CANVAS = 128


@struct
class MapOutputs:
    """Maps of every pixel, on the device.

    Attributes:
      semantic: class of every pixel; 255 beyond the image.
      finite: whether all logits that it was made of are finite.
      panoptic: segments, or None for models that do not merge.
    """

    semantic: UInt8[Array, "*B H W"]
    finite: Bool[Array, "*B"]
    panoptic: PanopticSegments | None = None


@functools.partial(jax.jit, static_argnames=("model", "refine"))
def predict_original(
    model: Model,
    variables: Any,
    images: UInt8[Array, "B H W 3"],
    image_sizes: Int32[Array, "B 2"],
    original_sizes: Int32[Array, "B 2"],
    *,
    refine: MaskRefinement | None = None,
) -> Detections:
    """The model's detections, boxes in original pixels.

    One jitted function for the whole process: a model compiles once per input shape, however
    often evaluation and prediction come back to it.

    Args:
      model: to predict with; hashable.
      variables: its parameters and statistics.
      images: padded uint8 RGB.
      image_sizes: (height, width) of each resized image inside the padding.
      original_sizes: (height, width) of each image before it was resized.
      refine: how masks are made to follow the contours of `images`; None leaves them.

    Returns:
      Detections with boxes in original pixels; empty boxes are no longer valid.

    Raises:
      ValueError: if masks are to be refined and there are none.
    """
    detections = model.apply(variables, images, image_sizes, method="predict")
    if refine is not None:
        detections = refine(images, detections)
    return to_original(detections, image_sizes, original_sizes)


@functools.partial(jax.jit, static_argnames=("model", "refine", "mesh"))
def predict_on_mesh(
    model: Model,
    variables: Any,
    images: UInt8[Array, "B H W 3"],
    image_sizes: Int32[Array, "B 2"],
    original_sizes: Int32[Array, "B 2"],
    *,
    mesh: Mesh,
    refine: MaskRefinement | None = None,
) -> Detections:
    """As `predict_original`, with the images split over the devices of a mesh of one axis."""

    def one_device(variables: Any, *rows: Any) -> Detections:
        return predict_original(model, variables, *rows, refine=refine)

    return _mapped(one_device, mesh, 1)(variables, images, image_sizes, original_sizes)


@functools.partial(jax.jit, static_argnames=("model", "padded_size", "canvas", "mesh"))
def maps_on_mesh(
    model: Model,
    found: Detections,
    image_sizes: Int32[Array, "B 2"],
    original_sizes: Int32[Array, "B 2"],
    *,
    mesh: Mesh,
    padded_size: tuple[int, int],
    canvas: tuple[int, int],
) -> MapOutputs:
    """As `maps_original`, with the images split over the devices of a mesh of one axis."""

    def one_device(*rows: Any) -> MapOutputs:
        return maps_original(model, *rows, padded_size=padded_size, canvas=canvas)

    return _mapped(one_device, mesh, 0)(found, image_sizes, original_sizes)


def _mapped(function: Any, mesh: Mesh, replicated: int) -> Any:
    """Maps a function over a mesh: the first arguments are everywhere, the others split."""
    (axis,) = mesh.axis_names

    def call(*arguments: Any) -> Any:
        split = len(arguments) - replicated
        specs = (P(),) * replicated + (P(axis),) * split
        return jax.shard_map(
            function, mesh=mesh, in_specs=specs, out_specs=P(axis), check_vma=False
        )(*arguments)

    return call


def to_original(
    found: Detections, image_sizes: Int32[Array, "B 2"], original_sizes: Int32[Array, "B 2"]
) -> Detections:
    """Detections in original pixels; empty boxes are no longer valid.

    Args:
      found: in pixels of the padded input.
      image_sizes: (height, width) of each resized image inside the padding.
      original_sizes: (height, width) of each image before it was resized.
    """
    masks = found.masks and found.masks.to_original(image_sizes, original_sizes)
    if found.boxes is None:
        return dataclasses.replace(found, masks=masks)
    boxes = rescale_boxes(found.boxes, image_sizes, original_sizes)
    valid = found.valid & nonempty(boxes, 0.0)
    return dataclasses.replace(found, boxes=boxes, valid=valid, masks=masks)


def collect(
    detections: Detections,
    original_sizes: Sequence[tuple[int, int]],
    *,
    class_names: Sequence[str] = (),
    score_threshold: float = 0.0,
    max_detections: int | None = None,
) -> list[ImageDetections]:
    """Brings detections to the host, image by image.

    Args:
      detections: detections that `predict_original` returned, on the device.
      original_sizes: (height, width) of each image; rows of the batch beyond it only fill the
        shape and are left out.
      class_names: the name of every class.
      score_threshold: leave out scores at or below it; NaN scores stay, to be noticed.
      max_detections: largest number per image, the best ones; None keeps all.

    Returns:
      One `ImageDetections` per size.
    """
    found = _collect_rows(detections, original_sizes, class_names, score_threshold, max_detections)
    return [objects for objects, _ in found]


def _collect_rows(
    detections: Detections,
    original_sizes: Sequence[tuple[int, int]],
    class_names: Sequence[str],
    score_threshold: float,
    max_detections: int | None,
) -> list[tuple[ImageDetections, Integer[np.ndarray, " n"]]]:
    """Objects of each image, as `collect` returns them, with their rows on the device."""
    boxes, scores, classes, valid = jax.device_get(
        (detections.boxes, detections.scores, detections.classes, detections.valid)
    )
    collected: list[tuple[ImageDetections, Integer[np.ndarray, " n"]]] = []
    for row, (height, width) in enumerate(original_sizes):
        keep = valid[row] & ~(scores[row] <= score_threshold)
        order = np.argsort(-scores[row], kind="stable")
        index = order[keep[order]][:max_detections]
        size = (int(height), int(width))
        masks = None
        if detections.masks is not None:
            masks = encode_masks(detections.masks, row, index, size)
        objects = ImageDetections(
            boxes=_boxes_around(masks or ()) if boxes is None else boxes[row][index],
            scores=scores[row][index],
            classes=classes[row][index],
            image_size=size,
            class_names=tuple(class_names),
            mask_rles=masks,
        )
        collected.append((objects, index))
    return collected


def _boxes_around(masks: Sequence[rle.Rle]) -> Float32[np.ndarray, "n 4"]:
    """The smallest boxes that hold masks, for models that predict none."""
    return np.array([rle.to_bbox(mask) for mask in masks], np.float32).reshape(-1, 4)


def map_canvas(height: int, width: int) -> tuple[int, int]:
    """The canvas of maps of images up to this size, in pixels; one program is compiled for each.

    The longer side is 4, 5, 6 or 7 times a power of 2 (..., 512, 640, 768, 896, 1024, ...), the
    shorter one, two, three or four quarters of it. So either side exceeds the image's by less
    than a quarter of the canvas's longer side. 206 photos of COCO share 9 canvases, whose area is
    1.08 times theirs on average; 300 random sizes of 300 to 5000 pixels, up to 2:1, share 65, of
    1.3 times their area on average and 1.8 at most.
    """
    longer = SMALLEST_CANVAS
    while longer < max(height, width):
        longer += (1 << (longer.bit_length() - 1)) // 4
    quarter = longer // 4
    shorter = -(-min(height, width) // quarter) * quarter
    return (shorter, longer) if height <= width else (longer, shorter)


@functools.partial(jax.jit, static_argnames=("model", "padded_size", "canvas"))
def maps_original(
    model: Model,
    found: Detections,
    image_sizes: Int32[Array, "B 2"],
    original_sizes: Int32[Array, "B 2"],
    *,
    padded_size: tuple[int, int],
    canvas: tuple[int, int],
) -> MapOutputs:
    """Semantic and panoptic maps at the original size, one image after the other for memory.

    Args:
      model: that found it; a panoptic one merges.
      found: detections that `predict_original` returned, with semantic logits. Merging needs masks.
      image_sizes: (height, width) of each resized image inside the padding.
      original_sizes: (height, width) of the maps; what exceeds the canvas is cut off.
      padded_size: (height, width) of the padded input.
      canvas: (height, width) of the arrays.

    Raises:
      ValueError: for more classes than labels of 8 bits can tell apart.
    """
    assert found.semantic_logits is not None
    check_label_count(found.semantic_logits.shape[-1])

    def one(row: tuple[Detections, Array, Array]) -> MapOutputs:
        detections, image_size, size = row
        logits = detections.semantic_logits
        assert logits is not None
        labels = semantic_labels(logits, image_size, size, padded_size=padded_size, canvas=canvas)
        segments = None
        if "panoptic" in model.tasks:
            assert isinstance(model, PanopticModel)
            segments = model.to_panoptic(detections, labels)
        return MapOutputs(
            semantic=jnp.where(labels < 0, IGNORE, labels).astype(jnp.uint8),
            finite=jnp.isfinite(logits).all(),
            panoptic=segments,
        )

    rows: Any = (found, image_sizes, original_sizes)
    made: Any = jax.lax.map(one, rows)
    return made


def collect_maps(
    maps: MapOutputs,
    original_sizes: Sequence[tuple[int, int]],
    classes: Classes,
    instance_rows: Sequence[Integer[np.ndarray, "_"]] = (),
) -> list[tuple[SemanticMap, PanopticMap | None]]:
    """Brings maps to the host.

    Args:
      maps: maps that `maps_original` returned.
      original_sizes: (height, width) of each image; rows of the batch beyond it only fill the
        shape and are left out.
      classes: names; those of panoptic maps must be known.
      instance_rows: rows of each image, as for `collect_panoptic`; () where no instances are given
        next to the maps.

    Returns:
      The maps of each image.

    Raises:
      ValueError: if logits are not finite, or names do not belong together.
    """
    host = jax.device_get(maps)
    collected: list[tuple[SemanticMap, PanopticMap | None]] = []
    for row, (height, width) in enumerate(original_sizes):
        if not host.finite[row]:
            raise ValueError(
                f"semantic logits of row {row} of the batch, of {height} x {width} pixels, are nan"
                " or infinite: the weights are broken, take an earlier checkpoint"
            )
        semantic = SemanticMap(host.semantic[row, :height, :width], classes.semantic_names)
        panoptic = None
        if host.panoptic is not None:
            one = _row(host.panoptic, row)
            panoptic = collect_panoptic(
                one,
                (height, width),
                classes.names,
                classes.semantic_names,
                classes.panoptic_categories,
                instance_rows[row] if instance_rows else None,
            )
        collected.append((semantic, panoptic))
    return collected


def _row(tree: PanopticSegments, row: int) -> PanopticSegments:
    """One image's part of a batch."""

    def of(leaf: Any) -> Any:
        return leaf[row]

    return jax.tree.map(of, tree)


def collect_results(
    model: Model,
    found: Detections,
    maps: MapOutputs | None,
    original_sizes: Sequence[tuple[int, int]],
    classes: Classes,
    *,
    score_threshold: float = 0.0,
    max_detections: int | None = None,
) -> list[Result]:
    """Brings all that a model found to the host, image by image.

    Args:
      model: that found it.
      found: detections that `predict_original` returned.
      maps: maps that `maps_original` returned, or None.
      original_sizes: (height, width) of each image, as for `collect`.
      classes: names.
      score_threshold: lowest score of the instances, as for `collect`.
      max_detections: largest number of instances, as for `collect`.

    Raises:
      ValueError: if logits are not finite, or names do not belong together.
    """
    instances: Sequence[ImageDetections | None] = [None] * len(original_sizes)
    rows: Sequence[np.ndarray] = ()
    if model.classes.things is not None:
        collected = _collect_rows(
            found,
            original_sizes,
            classes.names,
            score_threshold,
            max_detections,
        )
        instances, rows = [pair[0] for pair in collected], [pair[1] for pair in collected]
    pairs: Sequence[tuple[SemanticMap | None, PanopticMap | None]]
    pairs = [(None, None)] * len(original_sizes)
    if maps is not None:
        pairs = collect_maps(maps, original_sizes, classes, rows)
    return [
        Result(size, objects, *pair)
        for size, objects, pair in zip(original_sizes, instances, pairs, strict=True)
    ]
