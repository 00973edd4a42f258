"""Draws semantic and panoptic maps: class colours, borders, names and a legend."""

import collections
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64, Shaped, UInt8

from segjax.data import rle
from segjax.data.images import IGNORE
from segjax.results import conversions
from segjax.results.draw import objects as viz
from segjax.results.draw.colours import class_colour
from segjax.results.draw.fonts import fitting_font
from segjax.results.maps import PanopticMap, PanopticSegment, SemanticMap
from segjax.results.result import Result

MAP_OPACITY = 0.55
WHITE = (255, 255, 255)
INK = (30, 30, 30)
# Name of pixels without a colour in the legend.
UNKNOWN = "unknown"
# Fractions of white (positive) or black (negative) that successive objects of a class mix into
# its colour.
SHADES = (0.0, 0.4, -0.3, 0.65, -0.5)


class _Entry(NamedTuple):
    """Legend entry; the colour is None for pixels that are not coloured."""

    text: str
    colour: tuple[int, int, int] | None


def draw_result(
    image: Shaped[np.ndarray, "h w *c"], found: Result, *, scale: int = 1
) -> UInt8[np.ndarray, "H W 3"]:
    """Draws the panoptic map of a result, or else its objects, or else its semantic map.

    Args:
      image: uint8 image as for `segjax.draw`, of the size of the result.
      found: result to draw.
      scale: factor to enlarge the image by before drawing; `readable_scale` suggests one.

    Returns:
      A new RGB image.

    Raises:
      ValueError: if `image` is not a uint8 image of the size of the result, `scale` is below 1,
        or the result is empty.
    """
    if found.panoptic is not None:
        return draw_panoptic(image, found.panoptic, found.segment_names, scale=scale)
    if found.instances is not None:
        return viz.draw(image, found.instances, scale=scale)
    if found.semantic is not None:
        return draw_semantic(image, found.semantic, scale=scale)
    raise ValueError("the result has neither instances nor maps: there is nothing to draw")


def draw_semantic(
    image: Shaped[np.ndarray, "h w *c"],
    semantic: SemanticMap,
    *,
    show_legend: bool = True,
    scale: int = 1,
) -> UInt8[np.ndarray, "H W 3"]:
    """Colours every pixel by its class.

    The colour of a class depends on its label and is the same in all images. Unknown pixels are
    left unchanged. White lines separate the classes. A legend below the image lists their names
    and shares of the area, largest first.

    Args:
      image: uint8 image as for `segjax.draw`, of the size of the map.
      semantic: semantic map to draw.
      show_legend: add the legend.
      scale: factor to enlarge the image by before drawing; `readable_scale` suggests one.

    Returns:
      A new RGB image, `scale` times as wide and high, plus the height of the legend.

    Raises:
      ValueError: if `image` is not a uint8 image of the size of the map, or `scale` is below 1.
    """
    canvas = _canvas(image, semantic.image_size, scale)
    labels, areas = np.unique(semantic.labels[semantic.labels != IGNORE], return_counts=True)
    regions = np.where(semantic.labels == IGNORE, 0, np.searchsorted(labels, semantic.labels) + 1)
    colours = [class_colour(int(label)) for label in labels]
    _paint(canvas, viz.enlarge(regions, scale), colours)
    if not show_legend:
        return canvas
    entries = [
        _Entry(
            f"{semantic.name(int(labels[i]))} {_percent(int(areas[i]), regions.size)}", colours[i]
        )
        for i in np.argsort(-areas, kind="stable")
    ]
    return _with_legend(canvas, entries, int((regions == 0).sum()), regions.size)


def draw_panoptic(
    image: Shaped[np.ndarray, "h w *c"],
    panoptic: PanopticMap,
    names: Mapping[int, str] | None = None,
    *,
    show_labels: bool = True,
    show_legend: bool = True,
    scale: int = 1,
) -> UInt8[np.ndarray, "H W 3"]:
    """Colours every segment by its class, with shades for further objects of the same class.

    The colour of a class depends on its index in `categories` and is the same in all images. Void
    pixels are left unchanged. White lines separate the segments, and labels read "person 1 0.98"
    as in `segjax.draw`. A legend below the image lists the classes, largest first, with their
    number of objects (if several) and their share of the area.

    Args:
      image: uint8 image as for `segjax.draw`, of the size of the map.
      panoptic: panoptic map to draw.
      names: names of objects by segment id, from `Result.segment_names` of the map's result.
        Objects without a name are labelled with their class. None to number the objects of the
        map itself.
      show_labels: write the names of objects.
      show_legend: add the legend.
      scale: factor to enlarge the image by before drawing; `readable_scale` suggests one.

    Returns:
      A new RGB image, `scale` times as wide and high, plus the height of the legend.

    Raises:
      ValueError: if `image` is not a uint8 image of the size of the map, or `scale` is below 1.
    """
    canvas = _canvas(image, panoptic.image_size, scale)
    segments = sorted(panoptic.segments, key=lambda s: s.id)
    ids = np.array([s.id for s in segments], np.int64)
    regions = np.where(panoptic.ids == 0, 0, np.searchsorted(ids, panoptic.ids) + 1)
    place = {s.id: i for i, s in enumerate(segments)}
    things = conversions.objects_of_panoptic(panoptic)  # best first
    colours = _segment_colours(panoptic, segments, [place[s.id] for s in things])
    _paint(canvas, viz.enlarge(regions, scale), colours)
    if show_labels:
        if names is None:
            names = Result(panoptic.image_size, panoptic=panoptic).segment_names
        texts = [_label_text(s, names) for s in things]
        masks = (viz.enlarge(panoptic.mask(s.id), scale) for s in things)
        boxes = [_label_anchor(mask, text) for mask, text in zip(masks, texts, strict=True)]
        own = {i: colours[place[s.id]] for i, s in enumerate(things)}
        viz.draw_labels(
            canvas, np.array(boxes, np.float32).reshape(-1, 4), texts, range(len(things)), own
        )
    if not show_legend:
        return canvas
    void = int((regions == 0).sum())
    return _with_legend(canvas, _panoptic_entries(panoptic), void, regions.size)


def shade(colour: tuple[int, int, int], number: int) -> tuple[int, int, int]:
    """Returns the colour of an object from the colour of its class and its number, from 0."""
    part = SHADES[number % len(SHADES)]
    end = 255 if part > 0 else 0
    red, green, blue = (round(value + (end - value) * abs(part)) for value in colour)
    return red, green, blue


def _canvas(
    image: Shaped[np.ndarray, "h w *c"], image_size: tuple[int, int], scale: int
) -> UInt8[np.ndarray, "H W 3"]:
    canvas = viz.as_rgb(image)
    if canvas.shape[:2] != image_size:
        raise ValueError(
            f"the image is {canvas.shape[:2]} pixels (height, width), the map is of one of"
            f" {image_size}: give the picture that was predicted"
        )
    if scale < 1:
        raise ValueError(f"scale is {scale}: wanted 1 or more")
    return viz.enlarge(canvas, scale)


def _paint(
    canvas: UInt8[np.ndarray, "H W 3"],
    regions: Int64[np.ndarray, "H W"],
    colours: Sequence[tuple[int, int, int]],
) -> None:
    """Paints region i in colour i - 1, except for region 0, and draws white borders, in place."""
    import cv2

    table = np.array([(0, 0, 0), *colours], np.float32)
    painted = regions > 0
    mixed = canvas[painted] * (1 - MAP_OPACITY) + table[regions[painted]] * MAP_OPACITY
    canvas[painted] = (mixed + 0.5).astype(np.uint8)
    borders = np.zeros(regions.shape, np.uint8)
    borders[:, 1:] |= regions[:, 1:] != regions[:, :-1]
    borders[1:] |= regions[1:] != regions[:-1]
    width = viz.line_width(regions.shape)
    if width > 1:
        borders = cv2.dilate(borders, np.ones((width, width), np.uint8))
    canvas[borders > 0] = WHITE


def _label_text(segment: PanopticSegment, names: Mapping[int, str]) -> str:
    score = "" if segment.score is None else f" {segment.score:.2f}"
    return names.get(segment.id, segment.category.name) + score


def _label_anchor(mask: Bool[np.ndarray, "H W"], text: str) -> Float32[np.ndarray, "4"]:
    """Returns the box to place a label at: where a mask is thickest, or around a small mask."""
    import cv2

    size = viz.label_size(mask.shape)
    width, height = 0.6 * size * len(text), 1.5 * size
    x0, y0, x1, y1 = box = rle.to_bbox(rle.encode(mask))
    if (x1 - x0) * (y1 - y0) < 6 * width * height:
        return np.array(box, np.float32)
    # The padding makes the edge of the image count as the edge of the mask.
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), mask.shape)
    # Labels are placed above their box, so that this one is centred on the thickest point.
    foot = y + height / 2
    return np.array([x - width / 2, foot, x + width / 2, foot], np.float32)


def _segment_colours(
    panoptic: PanopticMap, segments: Sequence[PanopticSegment], best_first: Sequence[int]
) -> list[tuple[int, int, int]]:
    """Returns a colour per segment. The best object of a class has its colour, others a shade."""
    of_category = {c: class_colour(place) for place, c in enumerate(panoptic.categories)}
    colours = [of_category[segment.category] for segment in segments]
    seen: collections.Counter[int] = collections.Counter()
    for i in best_first:
        number = seen[segments[i].category.id]
        seen[segments[i].category.id] += 1
        colours[i] = shade(colours[i], number)
    return colours


def _panoptic_entries(panoptic: PanopticMap) -> list[_Entry]:
    """Returns legend entries of the classes in the map, largest first, as "person x2 31%"."""
    areas, counts = collections.Counter(), collections.Counter()
    for segment in panoptic.segments:
        areas[segment.category] += segment.area
        counts[segment.category] += segment.category.is_thing and not segment.is_crowd
    entries = []
    for category, area in areas.most_common():
        times = f" x{counts[category]}" if counts[category] > 1 else ""
        colour = class_colour(panoptic.categories.index(category))
        text = f"{category.name}{times} {_percent(area, panoptic.ids.size)}"
        entries.append(_Entry(text, colour))
    return entries


def _percent(part: int, whole: int) -> str:
    percent = 100 * part / whole
    return f"{percent:.0f}%" if percent >= 1 else "<1%"


def _with_legend(
    canvas: UInt8[np.ndarray, "H W 3"], entries: Sequence[_Entry], unknown: int, pixels: int
) -> UInt8[np.ndarray, "H2 W 3"]:
    """Appends a legend below the image, on white."""
    from PIL import Image, ImageDraw

    lines = list(entries)
    if unknown:
        lines.append(_Entry(f"{UNKNOWN} {_percent(unknown, pixels)}", None))
    width = canvas.shape[1]
    size = viz.label_size(canvas.shape[:2])
    font, texts = fitting_font([entry.text for entry in lines], size)
    lines = [entry._replace(text=text) for entry, text in zip(lines, texts, strict=True)]
    row = round(1.5 * sum(font.getmetrics()))
    swatch, gap = row // 2, row // 3
    places, x, y = [], gap, 0
    for entry in lines:
        taken = swatch + gap + int(font.getlength(entry.text)) + 2 * gap
        if x > gap and x + taken > width:
            x, y = gap, y + row
        places.append((x, y))
        x += taken
    strip = Image.new("RGB", (width, y + row), WHITE)
    pen = ImageDraw.Draw(strip)
    for entry, (left, top) in zip(lines, places, strict=True):
        upper = top + (row - swatch) // 2
        square = (left, upper, left + swatch - 1, upper + swatch - 1)
        pen.rectangle(square, fill=_swatch(entry.colour), outline=INK)
        pen.text((left + swatch + gap, top + row / 2), entry.text, fill=INK, font=font, anchor="lm")
    return np.concatenate([canvas, np.asarray(strip)])


def _swatch(colour: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """Returns a colour as it appears over mid-gray; white for None."""
    if colour is None:
        return WHITE
    red, green, blue = (round(128 * (1 - MAP_OPACITY) + v * MAP_OPACITY) for v in colour)
    return red, green, blue
