"""Draws detections and ground truth: masks, boxes and labels over an image."""

import colorsys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped, UInt8

from segjax.results.draw.fonts import fitting_font

# Hues that are successive multiples of the golden ratio stay well separated for any number.
GOLDEN_RATIO = 0.618033988749895
MASK_OPACITY = 0.45
# With more objects than this, labels are smaller, and skipped if they would hide small objects.
CROWDED = 12


class _Label(NamedTuple):
    text: str
    left: int
    top: int
    right: int
    bottom: int


def draw(
    image: Shaped[np.ndarray, "h w *c"],
    detections: Any,
    class_names: Sequence[str] | None = None,
    *,
    show_masks: bool = True,
    show_boxes: bool = True,
    show_labels: bool = True,
    scale: int = 1,
    font: str | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draws objects over an image.

    Every object has its own colour for mask, outline, box and label. Labels read
    "person 1 0.98": class, number within the class from the best score down, score. Line and
    text sizes follow the sizes of the image and of its objects. Labels stay inside the image and
    out of each other's way where there is room; in crowds, labels that would cover small objects
    are omitted.

    Args:
      image: uint8 image: [h, w] or [h, w, 1] grayscale, [h, w, 3] RGB, or [h, w, 4] RGBA.
      detections: `ImageDetections`, or any object with the same `boxes`, `scores`, `classes`,
        `image_size`, `class_names`, `mask_rles` and `mask(i)`, in pixels of `image`.
      class_names: name of every class; None to use those of `detections`.
      show_masks: fill and outline the masks.
      show_boxes: draw the boxes.
      show_labels: write the labels.
      scale: factor to enlarge the image by before drawing; `readable_scale` suggests one.
      font: path of a font file for the labels; None to find one that has all letters of the names
        (see `segjax.results.draw.fonts`).

    Returns:
      A new RGB image, `scale` times as high and wide.

    Raises:
      ValueError: if `image` is not a uint8 image of the size of the detections, or `scale` is
        below 1.
    """
    canvas = as_rgb(image)
    if tuple(detections.image_size) != canvas.shape[:2]:
        raise ValueError(
            f"the image is {canvas.shape[:2]} pixels (height, width), the detections are of one"
            f" of {tuple(detections.image_size)}: give the picture that was predicted"
        )
    if scale < 1:
        raise ValueError(f"scale is {scale}: wanted 1 or more")
    canvas = enlarge(canvas, scale)
    boxes = detections.boxes * scale
    order = drawing_order(detections)
    colours = {i: instance_colour(rank) for rank, i in enumerate(order)}
    # Large objects are drawn first, so that they do not cover small ones.
    by_area = sorted(order, key=lambda i: -_area(boxes[i]))
    # Lines of a large picture would cover its small objects.
    width = max(1, min(line_width(canvas.shape[:2]), round(_median_side(boxes) / 10)))
    for i in by_area:
        if show_masks and detections.mask_rles is not None:
            _draw_mask(canvas, enlarge(detections.mask(i), scale), colours[i], width)
        if show_boxes:
            _draw_box(canvas, boxes[i], colours[i], width)
    if show_labels:
        names = detections.class_names if class_names is None else class_names
        draw_labels(canvas, boxes, label_texts(detections, order, names), order, colours, font)
    return canvas


def instance_colour(rank: int) -> tuple[int, int, int]:
    """Returns a bright RGB colour for the object of a rank, distinct from neighbouring ranks."""
    hue = (0.58 + rank * GOLDEN_RATIO) % 1.0
    # Saturation and value change every seven ranks, to distinguish hues that are close again.
    saturation, value = ((0.85, 1.0), (0.60, 0.95), (0.95, 0.80))[rank // 7 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def readable_scale(image_size: tuple[int, int]) -> int:
    """Returns the factor to enlarge a small image by, so that labels do not hide its objects."""
    return max(1, round(480 / max(image_size)))


def line_width(image_size: tuple[int, int]) -> int:
    """Returns the line width of boxes in pixels: 2 for a 640 x 480 image, at least 1."""
    height, width = image_size
    return max(1, round((height * width) ** 0.5 / 280))


def label_size(image_size: tuple[int, int]) -> int:
    """Returns the height of label text in pixels: 14 for a 640 x 480 image, at least 9."""
    height, width = image_size
    return max(9, round((height * width) ** 0.5 / 40))


def as_rgb(image: Shaped[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w 3"]:
    """Converts an image to a new RGB array: repeats grayscale, and drops transparency.

    Raises:
      ValueError: if `image` is not uint8 with 1, 3 or 4 channels, or has no pixels.
    """
    channels = image[..., None] if image.ndim == 2 else image
    proper = image.dtype == np.uint8 and channels.ndim == 3 and channels.shape[2] in (1, 3, 4)
    if not proper or not image.size:
        raise ValueError(
            f"image is {image.dtype} {image.shape}: wanted uint8 [h, w], [h, w, 1], [h, w, 3] or"
            " [h, w, 4] with at least one pixel; scale float pictures to 0..255 and convert"
        )
    if channels.shape[2] == 1:
        return np.repeat(channels, 3, axis=2)
    return np.array(channels[..., :3], order="C")


def enlarge(picture: np.ndarray, scale: int) -> np.ndarray:
    """Repeats every pixel `scale` times in both directions."""
    return picture.repeat(scale, axis=0).repeat(scale, axis=1) if scale > 1 else picture


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _median_side(boxes: np.ndarray) -> float:
    """Median of the boxes' mean sides in pixels; a large number without boxes."""
    return float(np.median((boxes[:, 2:] - boxes[:, :2]).mean(axis=1))) if len(boxes) else 1e6


def drawing_order(detections: Any) -> list[int]:
    """Returns the indices of objects by descending score; in input order without scores."""
    if detections.scores is None:
        return list(range(len(detections.boxes)))
    return [int(i) for i in np.argsort(-detections.scores, kind="stable")]


def _draw_mask(
    canvas: np.ndarray,
    mask: Bool[np.ndarray, "h w"],
    colour: tuple[int, int, int],
    width: int,
) -> None:
    import cv2

    if not mask.any():
        return
    fill = np.array(colour, np.float32)
    canvas[mask] = (canvas[mask] * (1 - MASK_OPACITY) + fill * MASK_OPACITY + 0.5).astype(np.uint8)
    # RETR_CCOMP also returns the contours of holes.
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, colour, max(1, width - 1), cv2.LINE_AA)


def _draw_box(
    canvas: np.ndarray, box: np.ndarray, colour: tuple[int, int, int], width: int
) -> None:
    import cv2

    height, right = canvas.shape[:2]
    x0, y0, x1, y1 = (round(float(value)) for value in box)
    # Boxes are half-open, but cv2.rectangle includes the corner pixel.
    corner = min(max(x1 - 1, x0), right - 1), min(max(y1 - 1, y0), height - 1)
    cv2.rectangle(canvas, (x0, y0), corner, colour, width, cv2.LINE_8)


def draw_labels(
    canvas: np.ndarray,
    boxes: np.ndarray,
    texts: Sequence[str],
    order: Sequence[int],
    colours: dict[int, tuple[int, int, int]],
    font_path: str | None = None,
) -> None:
    """Writes a label next to every object.

    Args:
      canvas: RGB image, modified in place.
      boxes: (x0, y0, x1, y1) of the objects, in pixels of the canvas.
      texts: label texts, in the order of `order`.
      order: indices of the objects; labels are placed in this order.
      colours: colour of each object, by index.
      font_path: path of a font file; None to find one that has all letters.
    """
    from PIL import Image, ImageDraw

    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    size, crowded = label_size(canvas.shape[:2]), len(order) > CROWDED
    small = min(round(0.8 * size), round(_median_side(boxes)))
    # Pillow's own space is so narrow that "1 0.98" would read as "10.98".
    wide = [text.replace(" ", "  ") for text in texts]
    font, wide = fitting_font(wide, max(9, small) if crowded else size, font_path)
    placed: list[_Label] = []
    for i, text in zip(order, wide, strict=True):
        label = _place(pen, font, text, boxes[i], canvas.shape[:2], placed)
        if crowded and _hides(label, boxes, placed):
            continue
        placed.append(label)
        pen.rectangle((label.left, label.top, label.right - 1, label.bottom - 1), fill=colours[i])
        centre = (label.left + label.right) / 2, (label.top + label.bottom) / 2
        pen.text(centre, text, fill=_ink(colours[i]), font=font, anchor="mm")
    canvas[:] = np.asarray(picture)


def label_texts(detections: Any, order: Sequence[int], class_names: Sequence[str]) -> list[str]:
    """Returns a label for every object in `order`: "person 1 0.98", or without score if unknown."""
    counts: dict[int, int] = {}
    texts = []
    for i in order:
        k = int(detections.classes[i])
        counts[k] = counts.get(k, 0) + 1
        name = class_names[k] if k < len(class_names) else f"class {k}"
        score = "" if detections.scores is None else f" {detections.scores[i]:.2f}"
        texts.append(f"{name} {counts[k]}{score}")
    return texts


def _ink(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Returns black for light colours, and white for dark ones (Rec. 601 luma)."""
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else (255, 255, 255)


def _place(
    pen: Any,
    font: Any,
    text: str,
    box: np.ndarray,
    image_size: tuple[int, int],
    placed: Sequence[_Label],
) -> _Label:
    """Returns the first free place: at corners of the box, next to it, or a few lines away."""
    height, width = image_size
    ascent, descent = font.getmetrics()
    pad = max(1, (ascent + descent) // 6)
    w = int(pen.textlength(text, font=font)) + 2 * pad + 1
    h = ascent + descent + pad
    x0, y0, x1, y1 = (int(value) for value in box)
    corners = [
        (x0, y0 - h),
        (x0, y0),
        (x1 - w, y0 - h),
        (x0, y1 - h),
        (x0, y1),
        (x1 - w, y1 - h),
        (x1, y0),
        (x0 - w, y0),
        (x1 - w, y1),
        (x0, (y0 + y1 - h) // 2),
        *((x0, y0 + step * h) for step in (-2, 1, -3, 2, -4, 3, -5, 4)),
    ]
    candidates = [_inside(text, left, top, w, h, width, height) for left, top in corners]
    return min(candidates, key=lambda label: sum(_overlap(label, other) for other in placed))


def _hides(label: _Label, boxes: np.ndarray, placed: Sequence[_Label]) -> bool:
    """Returns True if a label covers most of a small object, or of another label."""
    area = (label.right - label.left) * (label.bottom - label.top)
    sides = np.minimum(boxes[:, 2:], (label.right, label.bottom)) - np.maximum(
        boxes[:, :2], (label.left, label.top)
    )
    covered = np.prod(np.maximum(sides, 0), axis=1)
    sizes = np.maximum(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), 1)
    small = sizes < area
    return bool((covered > 0.5 * sizes)[small].any()) or any(
        _overlap(label, other) > 0.5 * area for other in placed
    )


def _inside(text: str, left: int, top: int, w: int, h: int, width: int, height: int) -> _Label:
    left, top = max(0, min(left, width - w)), max(0, min(top, height - h))
    return _Label(text, left, top, min(left + w, width), min(top + h, height))


def _overlap(a: _Label, b: _Label) -> int:
    across = min(a.right, b.right) - max(a.left, b.left)
    down = min(a.bottom, b.bottom) - max(a.top, b.top)
    return max(0, across) * max(0, down)
