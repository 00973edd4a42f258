"""Converts a model's fixed-shape outputs to results in pixels of the original image.

Boxes are processed as in Detectron2's `detector_postprocess`: scaled per axis, clipped to the
image, and dropped if empty. `mask_encoding` handles masks. Semantic and panoptic maps are computed
on the device at the size of the image, inside a canvas of fixed size.
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

# Minimum length of the longer side of a map's canvas, in pixels; a multiple of 16.
SMALLEST_CANVAS = 128


@struct
class MapOutputs:
    """Semantic and panoptic maps on the device.

    Attributes:
      semantic: class of every pixel; 255 outside the image.
      finite: True if all semantic logits are finite.
      panoptic: panoptic segments; None for models without a panoptic merge.
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
    """Predicts detections, with boxes in original pixels.

    The whole process shares this jitted function, so that a model compiles only once per input
    shape, for all evaluations and predictions.

    Args:
      model: model to predict with; hashable.
      variables: parameters and statistics of the model.
      images: padded uint8 RGB images.
      image_sizes: (height, width) of each resized image inside the padding.
      original_sizes: (height, width) of each image before it was resized.
      refine: refinement of masks to the contours of `images`; None to keep the model's masks.

    Returns:
      Detections with boxes in original pixels; empty boxes are marked invalid.

    Raises:
      ValueError: if `refine` is set and the model predicts no masks.
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
    """Scales detections to original pixels, and marks empty boxes as invalid.

    Args:
      found: detections in pixels of the padded input.
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
    """Transfers detections to the host, image by image.

    Args:
      detections: detections from `predict_original`, on the device.
      original_sizes: (height, width) of each image; further rows of the batch are padding and
        ignored.
      class_names: name of every class.
      score_threshold: detections with a score up to this are dropped; NaN scores are kept, so
        that they are noticed.
      max_detections: maximum number of detections per image, best first; None for no limit.

    Returns:
      One `ImageDetections` for each of `original_sizes`.
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
    """Returns the objects of each image, as `collect` does, with their rows on the device."""
    boxes, scores, classes, valid = jax.device_get(
        (detections.boxes, detections.scores, detections.classes, detections.valid)
    )
    collected: list[tuple[ImageDetections, Integer[np.ndarray, " n"]]] = []
    for row, (height, width) in enumerate(original_sizes):
        keep = valid[row] & ~(scores[row] <= score_threshold)  # True for NaN
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
    """Returns the bounding boxes of masks, for models that predict no boxes."""
    return np.array([rle.to_bbox(mask) for mask in masks], np.float32).reshape(-1, 4)


def map_canvas(height: int, width: int) -> tuple[int, int]:
    """Returns the canvas size for maps of an image. Each canvas size compiles one program.

    The longer side is 4, 5, 6 or 7 times a power of 2 (..., 512, 640, 768, 896, 1024, ...), and
    the shorter side one to four quarters of it. Both sides exceed those of the image by less than
    a quarter of the canvas's longer side. For example, 206 COCO images need 9 canvases, with 1.08
    times the area of the image on average. 300 random sizes of 300 to 5000 pixels, up to 2:1,
    need 65, with 1.3 times the area on average and 1.8 at most.
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
    """Computes semantic and panoptic maps at the original size, one image at a time.

    Args:
      model: model of the detections; a panoptic model also merges.
      found: detections from `predict_original`, with semantic logits, and masks for the merge.
      image_sizes: (height, width) of each resized image inside the padding.
      original_sizes: (height, width) of the maps, which are cropped to the canvas.
      padded_size: (height, width) of the padded input.
      canvas: (height, width) of the output arrays.

    Raises:
      ValueError: if there are more classes than 8-bit labels can represent.
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
    # lax.map instead of vmap, as full-size logits of a whole batch would need too much memory.
    made: Any = jax.lax.map(one, rows)
    return made


def collect_maps(
    maps: MapOutputs,
    original_sizes: Sequence[tuple[int, int]],
    classes: Classes,
    instance_rows: Sequence[Integer[np.ndarray, "_"]] = (),
) -> list[tuple[SemanticMap, PanopticMap | None]]:
    """Transfers maps to the host.

    Args:
      maps: maps from `maps_original`.
      original_sizes: (height, width) of each image; further rows of the batch are padding and
        ignored.
      classes: class names; panoptic maps need them.
      instance_rows: rows of the instances of each image, as for `collect_panoptic`; () without
        instances.

    Returns:
      The maps of each image.

    Raises:
      ValueError: if logits are not finite, or names do not match.
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
    """Selects one image of a batch."""

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
    """Transfers all results of a model to the host, image by image.

    Args:
      model: model of the results.
      found: detections from `predict_original`.
      maps: maps from `maps_original`, or None.
      original_sizes: (height, width) of each image, as for `collect`.
      classes: class names.
      score_threshold: score threshold of the instances, as for `collect`.
      max_detections: maximum number of instances, as for `collect`.

    Raises:
      ValueError: if logits are not finite, or names do not match.
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
