"""From a model's fixed-shape detections to objects in original pixels.

Boxes follow Detectron2's `detector_postprocess`: scaled per axis, clipped to the image, empty
ones dropped; `mask_encoding` does the masks. Semantic and panoptic maps are made on the device,
at the image's size inside a canvas of fixed size.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, Integer, UInt8

from segjax.data.images import IGNORE
from segjax.figure_ground.refine import MaskRefinement
from segjax.models.panoptic_fpn import PanopticMerge, panoptic_map
from segjax.ops.boxes import clip_boxes, nonempty
from segjax.ops.panoptic import PanopticSegments, semantic_labels
from segjax.results.classes import Classes, gives_instances
from segjax.results.detections import ImageDetections
from segjax.results.maps import PanopticMap, SemanticMap, check_label_count
from segjax.results.mask_encoding import encode_masks
from segjax.results.panoptic_collect import collect_panoptic
from segjax.results.result import Result
from segjax.types import Detections, struct

# The shortest that the longer side of a map's canvas can be, in pixels; a multiple of 16.
SMALLEST_CANVAS = 128


@struct
class MapOutputs:
    """What every pixel is, on the device.

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
    model: Any,
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
      model: a linen module with a `predict` method, or anything hashable with its `apply`.
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
    boxes, valid = rescale_boxes(detections.boxes, image_sizes, original_sizes)
    return Detections(
        boxes=boxes,
        scores=detections.scores,
        classes=detections.classes,
        valid=detections.valid & valid,
        mask_probs=detections.mask_probs,
        semantic_logits=detections.semantic_logits,
    )


def rescale_boxes(
    boxes: Float32[Array, "B D 4"],
    image_sizes: Int32[Array, "B 2"],
    original_sizes: Int32[Array, "B 2"],
) -> tuple[Float32[Array, "B D 4"], Bool[Array, "B D"]]:
    """Moves boxes from resized to original pixels and clips them to the image.

    Each axis has its own factor, original / resized: rounding the resized size makes the two
    differ (Detectron2, `detector_postprocess`; mmdet's `scale_factor`).

    Args:
      boxes: in pixels of the resized image.
      image_sizes: (height, width) after resizing.
      original_sizes: (height, width) before.

    Returns:
      The boxes in original pixels, and whether each has an extent inside the image.
    """
    factors = original_sizes.astype(jnp.float32) / image_sizes.astype(jnp.float32)
    xyxy = jnp.stack([factors[:, 1], factors[:, 0]] * 2, axis=-1)
    scaled = clip_boxes(boxes * xyxy[:, None, :], original_sizes)
    return scaled, nonempty(scaled, 0.0)


def collect(
    detections: Detections,
    original_sizes: Sequence[tuple[int, int]],
    *,
    paste_padded: bool,
    class_names: Sequence[str] = (),
    score_threshold: float = 0.0,
    max_detections: int | None = None,
) -> list[ImageDetections]:
    """Brings detections to the host, image by image.

    Args:
      detections: of `predict_original`, on the device.
      original_sizes: (height, width) of each image; rows of the batch beyond it only fill the
        shape and are left out.
      paste_padded: paste masks as torchvision does.
      class_names: the name of every class.
      score_threshold: leave out scores at or below it; NaN scores stay, to be noticed.
      max_detections: at most so many per image, the best; None takes all.

    Returns:
      One `ImageDetections` per size.
    """
    found = _collect_rows(
        detections, original_sizes, paste_padded, class_names, score_threshold, max_detections
    )
    return [objects for objects, _ in found]


def _collect_rows(
    detections: Detections,
    original_sizes: Sequence[tuple[int, int]],
    paste_padded: bool,
    class_names: Sequence[str],
    score_threshold: float,
    max_detections: int | None,
) -> list[tuple[ImageDetections, Integer[np.ndarray, " n"]]]:
    """What `collect` gives, and which rows of the device's detections they are."""
    boxes, scores, classes, valid = jax.device_get(
        (detections.boxes, detections.scores, detections.classes, detections.valid)
    )
    collected = []
    for row, (height, width) in enumerate(original_sizes):
        keep = valid[row] & ~(scores[row] <= score_threshold)
        order = np.argsort(-scores[row], kind="stable")
        index = order[keep[order]][:max_detections]
        masks = None
        if detections.mask_probs is not None:
            masks = encode_masks(
                detections.mask_probs,
                detections.boxes,
                row,
                index,
                (int(height), int(width)),
                paste_padded=paste_padded,
            )
        objects = ImageDetections(
            boxes=boxes[row][index],
            scores=scores[row][index],
            classes=classes[row][index],
            image_size=(int(height), int(width)),
            class_names=tuple(class_names),
            mask_rles=masks,
        )
        collected.append((objects, index))
    return collected


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


@functools.partial(jax.jit, static_argnames=("padded_size", "canvas", "merge", "paste_padded"))
def maps_original(
    found: Detections,
    image_sizes: Int32[Array, "B 2"],
    original_sizes: Int32[Array, "B 2"],
    *,
    padded_size: tuple[int, int],
    canvas: tuple[int, int],
    merge: PanopticMerge | None,
    paste_padded: bool,
) -> MapOutputs:
    """Semantic and panoptic maps at the original size, one image after the other for memory.

    Args:
      found: of `predict_original`, with semantic logits; and with masks, to be merged.
      image_sizes: (height, width) of each resized image inside the padding.
      original_sizes: (height, width) of the maps; what exceeds the canvas is cut off.
      padded_size: (height, width) of the padded input.
      canvas: (height, width) of the arrays.
      merge: how instances and stuff become one map; None: they do not.
      paste_padded: paste masks as torchvision does.

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
        if merge is not None:
            segments = panoptic_map(detections, labels, merge, paste_padded)
        return MapOutputs(
            semantic=jnp.where(labels < 0, IGNORE, labels).astype(jnp.uint8),
            finite=jnp.isfinite(logits).all(),
            panoptic=segments,
        )

    return jax.lax.map(one, (found, image_sizes, original_sizes))


def collect_maps(
    maps: MapOutputs,
    original_sizes: Sequence[tuple[int, int]],
    classes: Classes,
    instance_rows: Sequence[Integer[np.ndarray, "_"]] = (),
) -> list[tuple[SemanticMap, PanopticMap | None]]:
    """Brings maps to the host.

    Args:
      maps: of `maps_original`.
      original_sizes: (height, width) of each image; rows of the batch beyond it only fill the
        shape and are left out.
      classes: names; those of panoptic maps must be known.
      instance_rows: of each image, as for `collect_panoptic`; () where no instances are given
        beside the maps.

    Returns:
      The maps of each image.

    Raises:
      ValueError: if logits are not finite, or names do not belong together.
    """
    host = jax.device_get(maps)
    collected = []
    for row, (height, width) in enumerate(original_sizes):
        if not host.finite[row]:
            raise ValueError(
                f"semantic logits of row {row} of the batch, of {height} x {width} pixels, are nan"
                " or infinite: the weights are broken, take an earlier checkpoint"
            )
        semantic = SemanticMap(host.semantic[row, :height, :width], classes.semantic_names)
        panoptic = None
        if host.panoptic is not None:
            one = jax.tree.map(lambda leaf, row=row: leaf[row], host.panoptic)
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


def collect_results(
    model: Any,
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
      found: of `predict_original`.
      maps: of `maps_original`; None for none.
      original_sizes: (height, width) of each image, as for `collect`.
      classes: names.
      score_threshold: of the instances, as for `collect`.
      max_detections: of the instances, as for `collect`.

    Raises:
      ValueError: if logits are not finite, or names do not belong together.
    """
    instances: Sequence[ImageDetections | None] = [None] * len(original_sizes)
    rows: Sequence[np.ndarray] = ()
    if gives_instances(model):
        collected = _collect_rows(
            found,
            original_sizes,
            bool(model.paste_padded),
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
