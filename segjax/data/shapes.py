"""A synthetic dataset in COCO format with exact masks: discs, boxes, triangles and stars.

Objects overlap, so that visible masks differ from the drawn shapes. Every class has its own texture
over a random colour. Some images contain a crowd of tiny objects, some contain none. The background
can be divided into regions of stuff, which adds panoptic annotations to those of the instances. The
seed determines everything.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from segjax._files import written_whole
from segjax.data import rle as rle_lib
from segjax.data.grounds import GROUND_IDS, GROUNDS, draw_grounds

CLASSES = ("disc", "box", "triangle", "star")
# As in COCO, the ids have gaps.
CATEGORY_IDS = (1, 3, 4, 8)
_VERSION = 1
_MARKER = "shapes.json"


@dataclasses.dataclass(frozen=True)
class ShapesConfig:
    """Settings of the synthetic images.

    Attributes:
      image_size: side of the square images, in pixels.
      num_train: number of training images.
      num_val: number of validation images.
      max_objects: largest number of objects per image; images that are not empty have at least one.
      min_side: smallest diameter of an object, in pixels.
      max_side: largest diameter of an object, in pixels.
      crowd_fraction: fraction of images with a crowd region.
      empty_fraction: fraction of images without objects.
      min_visible: smallest fraction of an object's visible pixels that each later object leaves
        visible.
      seed: seed of all random choices.
      stuff_regions: number of stuff classes, 2 to 4 of `segjax.data.grounds.GROUNDS`. Each image
        shows at least two of them, and `semantic="panoptic"` can be read. 0 draws a background
        without classes.
    """

    image_size: int = 128
    num_train: int = 800
    num_val: int = 100
    max_objects: int = 4
    min_side: int = 24
    max_side: int = 64
    crowd_fraction: float = 0.04
    empty_fraction: float = 0.03
    min_visible: float = 0.4
    seed: int = 0
    stuff_regions: int = 0

    def __post_init__(self) -> None:
        if not 8 <= self.min_side <= self.max_side <= self.image_size:
            raise ValueError(
                f"min_side {self.min_side}, max_side {self.max_side}, image_size "
                f"{self.image_size}: wanted 8 <= min_side <= max_side <= image_size"
            )
        if self.stuff_regions not in (0, 2, 3, 4):
            raise ValueError(
                f"stuff_regions is {self.stuff_regions}: wanted 0, or 2 to {len(GROUNDS)} classes "
                "of ground"
            )

    def fingerprint(self) -> str:
        """Returns a hash of all fields, as 16 hexadecimal digits."""
        fields = dataclasses.asdict(self)
        if not self.stuff_regions:
            del fields["stuff_regions"]  # keeps the hash from before this field was added
        text = json.dumps([_VERSION, fields], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def generate(config: ShapesConfig, root: str | os.PathLike[str]) -> None:
    """Writes the dataset, unless `root` already contains it.

    Args:
      config: settings of the images.
      root: folder for `train/`, `val/` and `annotations/instances_{train,val}.json`. A dataset of
        another config is replaced. With `stuff_regions`, `annotations/panoptic_{train,val}.json`
        and folders of the same names are written as well.

    Raises:
      FileExistsError: if `root` contains files that this function did not write.
    """
    folder = Path(root)
    marker = folder / _MARKER
    if marker.exists() and json.loads(marker.read_text())["fingerprint"] == config.fingerprint():
        return
    if folder.exists() and any(folder.iterdir()) and not _is_ours(folder):
        raise FileExistsError(
            f"{folder} holds files but no {_MARKER}: choose an empty folder for the shapes"
        )
    _clear(folder)
    for split, count, stream in (("train", config.num_train, 0), ("val", config.num_val, 1)):
        _write_split(config, folder, split, count, stream)
    # The marker comes last: without it, an interrupted dataset is drawn again.
    _write_json(marker, json.dumps({"fingerprint": config.fingerprint()}))


@dataclasses.dataclass(frozen=True)
class Picture:
    """A synthetic image with its annotations.

    Attributes:
      image: RGB image.
      objects: class index, visible mask, and crowd flag of each object.
      ground: index in `GROUNDS` of every pixel, also below objects; None without `stuff_regions`.
    """

    image: UInt8[np.ndarray, "h w 3"]
    objects: list[tuple[int, Bool[np.ndarray, "h w"], bool]]
    ground: UInt8[np.ndarray, "h w"] | None


def draw(config: ShapesConfig, rng: np.random.Generator) -> Picture:
    """Draws one image.

    Args:
      config: settings of the images.
      rng: random generator.

    Returns:
      The image with its annotations.
    """
    ground = None
    if config.stuff_regions:
        image, ground = draw_grounds(config.image_size, config.stuff_regions, rng)
    else:
        image = _ground(config.image_size, rng)
    return Picture(image, _draw_objects(image, config, rng), ground)


def _draw_objects(
    image: UInt8[np.ndarray, "h w 3"], config: ShapesConfig, rng: np.random.Generator
) -> list[tuple[int, Bool[np.ndarray, "h w"], bool]]:
    """Draws objects onto a background, in place, and returns those that remain visible."""
    if rng.random() < config.empty_fraction:
        return []
    objects: list[tuple[int, Bool[np.ndarray, "h w"], bool]] = []
    if rng.random() < config.crowd_fraction:
        objects.append(_draw_crowd(image, config, rng))
    for _ in range(int(rng.integers(1, config.max_objects + 1))):
        _add_object(image, objects, config, rng)
    return [(kind, mask, crowd) for kind, mask, crowd in objects if mask.any()]


def _add_object(
    image: UInt8[np.ndarray, "h w 3"],
    objects: list[tuple[int, Bool[np.ndarray, "h w"], bool]],
    config: ShapesConfig,
    rng: np.random.Generator,
) -> None:
    """Adds an object in front of the others, unless all attempts would hide one too much."""
    before = [mask.sum() for _, mask, _ in objects]
    for _ in range(10):
        kind = int(rng.integers(len(CLASSES)))
        side = float(rng.uniform(config.min_side, config.max_side))
        centre = rng.uniform(0.4 * side, config.image_size - 0.4 * side, 2)
        mask = _shape_mask(kind, side, centre, config.image_size, rng)
        left = [(old & ~mask).sum() for _, old, _ in objects]
        if all(a >= config.min_visible * b for a, b in zip(left, before, strict=True)):
            break
    else:
        return
    for index, (old_kind, old, crowd) in enumerate(objects):
        objects[index] = (old_kind, old & ~mask, crowd)
    _paint(image, mask, kind, side, rng)
    objects.append((kind, mask, False))


def _shape_mask(
    kind: int, side: float, centre: Float[np.ndarray, "2"], size: int, rng: np.random.Generator
) -> Bool[np.ndarray, "h w"]:
    """Rasterises a randomly rotated shape with a diameter of `side` pixels."""
    import cv2

    angle, aspect = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.0)
    radius = side / 2
    if CLASSES[kind] == "disc":
        y, x = np.ogrid[:size, :size]
        return (x + 0.5 - centre[0]) ** 2 + (y + 0.5 - centre[1]) ** 2 <= radius**2
    if CLASSES[kind] == "box":
        half = np.arctan(aspect)
        turns, radii = np.array([half, np.pi - half, np.pi + half, -half]), np.full(4, radius)
        angle = 0.25 * np.sin(angle)  # nearly upright
    elif CLASSES[kind] == "triangle":
        turns, radii = np.arange(3) * (2 * np.pi / 3), np.full(3, radius)
    else:
        turns, radii = np.arange(10) * (np.pi / 5), np.tile([radius, 0.45 * radius], 5)
    points = centre + np.stack([np.cos(turns + angle), np.sin(turns + angle)], 1) * radii[:, None]
    mask = np.zeros((size, size), np.uint8)
    # Fixed-point coordinates in 1/16 pixel. OpenCV puts pixel centres at integers, we at + 0.5.
    cv2.fillPoly(mask, [np.round((points - 0.5) * 16).astype(np.int32)], 1, shift=4)
    return mask.astype(bool)


def _paint(
    image: UInt8[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"],
    kind: int,
    side: float,
    rng: np.random.Generator,
) -> None:
    """Fills the mask with the texture of its class over a random bright colour."""
    ys, xs = np.nonzero(mask)
    colour = rng.uniform(70, 230, 3)
    phase = rng.uniform(0, 2 * np.pi)
    wave = 2 * np.pi / max(side / 5, 5.0)
    texture = (
        np.hypot(xs - xs.mean(), ys - ys.mean()) / side - 0.25,  # shaded like a ball
        0.5 * np.sign(np.sin(wave * ys + phase)),  # stripes
        0.5 * np.sign(np.sin(wave * xs + phase) * np.sin(wave * ys)),  # checks
        rng.uniform(-0.5, 0.5, xs.size),  # grain
    )[kind]
    image[ys, xs] = np.clip(colour + 70 * texture[:, None] + rng.normal(0, 5, (xs.size, 3)), 0, 255)


def _draw_crowd(
    image: UInt8[np.ndarray, "h w 3"], config: ShapesConfig, rng: np.random.Generator
) -> tuple[int, Bool[np.ndarray, "h w"], bool]:
    """Draws many tiny objects of one class; their union is one crowd region."""
    size = config.image_size
    kind = int(rng.integers(len(CLASSES)))
    centre = rng.uniform(0.2 * size, 0.8 * size, 2)
    crowd = np.zeros((size, size), bool)
    for _ in range(20):
        side = float(rng.uniform(5, 8))
        place = np.clip(centre + rng.normal(0, size / 10, 2), 4, size - 4)
        mask = _shape_mask(kind, side, place, size, rng) & ~crowd
        if mask.any():
            _paint(image, mask, kind, side, rng)
            crowd |= mask
    return kind, crowd, True


def _ground(size: int, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a background of soft blotches and fine noise."""
    import cv2

    coarse = rng.uniform(20, 150, (6, 6, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    noise = rng.normal(0, 8, (size, size, 1)).astype(np.float32)
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


def _write_split(config: ShapesConfig, root: Path, split: str, count: int, stream: int) -> None:
    for folder in (split, "annotations", *([f"panoptic_{split}"] if config.stuff_regions else [])):
        (root / folder).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    panoptic: list[dict[str, Any]] = []
    for index in range(count):
        # One generator per image, so that images do not depend on their number.
        picture = draw(config, np.random.default_rng([config.seed, stream, index]))
        name = f"{index:06d}.png"
        _write_png(root / split / name, picture.image)
        side = config.image_size
        images.append({"id": index + 1, "file_name": name, "height": side, "width": side})
        for kind, mask, crowd in picture.objects:
            annotations.append(_annotation(len(annotations) + 1, index + 1, kind, mask, crowd))
        if config.stuff_regions:
            ids, segments = _segments(picture)
            _write_png(root / f"panoptic_{split}" / name, _colours(ids))
            panoptic.append({"image_id": index + 1, "file_name": name, "segments_info": segments})
    categories = [{"id": i, "name": name} for i, name in zip(CATEGORY_IDS, CLASSES, strict=True)]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    _write_json(root / "annotations" / f"instances_{split}.json", text)
    if config.stuff_regions:
        categories = [category | {"isthing": 1} for category in categories] + [
            {"id": GROUND_IDS[i], "name": GROUNDS[i], "isthing": 0}
            for i in range(config.stuff_regions)
        ]
        text = json.dumps({"images": images, "annotations": panoptic, "categories": categories})
        _write_json(root / "annotations" / f"panoptic_{split}.json", text)


def _write_json(path: Path, text: str) -> None:
    with written_whole(path) as partial:
        partial.write_text(text)


def _write_png(path: Path, image: UInt8[np.ndarray, "h w 3"]) -> None:
    import cv2

    if not cv2.imwrite(str(path), image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1]):
        raise OSError(f"could not write {path}")


def _segments(picture: Picture) -> tuple[Int64[np.ndarray, "h w"], list[dict[str, Any]]]:
    """Returns a map of segment ids and the list of segments, objects first."""
    assert picture.ground is not None
    parts = [(CATEGORY_IDS[kind], mask, crowd) for kind, mask, crowd in picture.objects]
    free = ~np.any([np.zeros(picture.ground.shape, bool), *(mask for _, mask, _ in parts)], axis=0)
    parts += [(GROUND_IDS[i], free & (picture.ground == i), False) for i in range(len(GROUNDS))]
    ids = np.zeros(picture.ground.shape, np.int64)
    segments: list[dict[str, Any]] = []
    for category_id, mask, crowd in parts:
        if not mask.any():
            continue
        # Multiplying by an odd number modulo 2**24 keeps ids distinct and spreads their colours.
        number = (len(segments) + 1) * 0x3A5B71 % (1 << 24)
        ids[mask] = number
        x0, y0, x1, y1 = rle_lib.to_bbox(rle_lib.encode(mask))
        segments.append(
            {
                "id": number,
                "category_id": category_id,
                "iscrowd": int(crowd),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": int(mask.sum()),
            }
        )
    return ids, segments


def _colours(ids: Int64[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Encodes segment ids as RGB, as in COCO: red holds the lowest byte."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)


def _annotation(
    number: int, image_id: int, kind: int, mask: Bool[np.ndarray, "h w"], crowd: bool
) -> dict[str, Any]:
    """Returns an object's annotation; masks alternate between RLE and, where exact, polygons."""
    encoded = rle_lib.encode(mask)
    x0, y0, x1, y1 = rle_lib.to_bbox(encoded)
    segmentation: Any = encoded
    if crowd:
        counts = rle_lib.counts_from_string(encoded["counts"], *mask.shape)
        segmentation = {"size": encoded["size"], "counts": counts.tolist()}
    elif number % 2:
        segmentation = _exact_polygon(mask) or encoded
    return {
        "id": number,
        "image_id": image_id,
        "category_id": CATEGORY_IDS[kind],
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": int(mask.sum()),
        "iscrowd": int(crowd),
        "segmentation": segmentation,
    }


def _exact_polygon(mask: Bool[np.ndarray, "h w"]) -> list[list[float]] | None:
    """Traces a mask along its pixel edges; None if it has gaps or the result is inexact."""
    columns = np.flatnonzero(mask.any(axis=0))
    top = mask.argmax(axis=0)[columns]
    bottom = mask.shape[0] - mask[::-1].argmax(axis=0)[columns]
    if (bottom - top).sum() != mask.sum() or columns[-1] - columns[0] + 1 != columns.size:
        return None
    there = [p for x, y in zip(columns, top, strict=True) for p in (x, y, x + 1, y)]
    back = [p for x, y in zip(columns[::-1], bottom[::-1], strict=True) for p in (x + 1, y, x, y)]
    polygon = [[float(p) for p in there + back]]
    exact = rle_lib.from_polygons(polygon, *mask.shape) == rle_lib.encode(mask)
    return polygon if exact else None


def _is_ours(folder: Path) -> bool:
    return (folder / _MARKER).exists() or (folder / f"{_MARKER}.partial").exists()


def _clear(folder: Path) -> None:
    """Removes an older synthetic dataset, and marks the folder as being written."""
    import shutil

    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{_MARKER}.partial").touch()
    for name in ("train", "val", "annotations", "panoptic_train", "panoptic_val"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / _MARKER).unlink(missing_ok=True)
