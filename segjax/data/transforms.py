"""Image transforms as frozen dataclasses: resizing and flipping, on the host.

`DataConfig.transforms` takes any tuple of these and of custom transforms that follow
`segjax.data.protocols.Transform`.
"""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from segjax.data.example import Example
from segjax.data.protocols import Sizes

Rounding = Literal["nearest", "floor"]
Interpolation = Literal["cv2", "pil"]


@dataclasses.dataclass(frozen=True)
class ShortSide:
    """Scales the short side to a given length, unless the long side would exceed its limit.

    With "nearest" rounding it follows Detectron2's ResizeShortestEdge and MMDetection's Resize;
    with "floor", torchvision's GeneralizedRCNNTransform.

    Attributes:
      sides: lengths of the short side in pixels; training draws one for each image.
      long_side: upper limit on the long side, in pixels.
      eval_side: length of the short side in evaluation and prediction, in pixels; None uses the
        largest of `sides`.
      rounding: rounding of the resized sides; "nearest" is `int(x + 0.5)`.
      interpolation: interpolation method, see `resize_image`.
    """

    sides: tuple[int, ...]
    long_side: int = 1333
    eval_side: int | None = None
    rounding: Rounding = "nearest"
    interpolation: Interpolation = "cv2"

    def __call__(self, example: Example, rng: np.random.Generator | None) -> Example:
        """Resizes the example; without `rng`, to the side for evaluation."""
        side = self._eval_side if rng is None else int(rng.choice(np.asarray(self.sides)))
        return resize(example, self.size(*example.size, side), self.interpolation)

    def sizes(self, height: int, width: int) -> Sizes:
        """Returns one size per side."""
        sides = sorted({*self.sides, self._eval_side})
        return tuple(self.size(height, width, side) for side in sides)

    def size(self, height: int, width: int, side: int) -> tuple[int, int]:
        """Returns the resized (height, width) for a given short side, at least 1 x 1.

        Args:
          height: rows of the image.
          width: columns of the image.
          side: target length of the short side, in pixels.
        """
        scale = min(side / min(height, width), self.long_side / max(height, width))
        return _scaled(height, width, scale, self.rounding)

    @property
    def _eval_side(self) -> int:
        return self.eval_side or max(self.sides)


@dataclasses.dataclass(frozen=True)
class Fit:
    """Scales an image to the largest size that fits into a rectangle, keeping its aspect ratio.

    Attributes:
      size: (height, width) of the rectangle in pixels.
      rounding: rounding of the resized sides; "nearest" is `int(x + 0.5)`.
      interpolation: interpolation method, see `resize_image`.
    """

    size: tuple[int, int]
    rounding: Rounding = "nearest"
    interpolation: Interpolation = "cv2"

    def __call__(self, example: Example, rng: np.random.Generator | None) -> Example:
        """Resizes the example; `rng` is not used."""
        return resize(example, self.sizes(*example.size)[0], self.interpolation)

    def sizes(self, height: int, width: int) -> Sizes:
        """Returns the only possible size."""
        scale = min(self.size[0] / height, self.size[1] / width)
        return (_scaled(height, width, scale, self.rounding),)


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Scales an image to a fixed size, without preserving its aspect ratio.

    Attributes:
      size: (height, width) in pixels.
      interpolation: interpolation method, see `resize_image`.
    """

    size: tuple[int, int]
    interpolation: Interpolation = "cv2"

    def __call__(self, example: Example, rng: np.random.Generator | None) -> Example:
        """Resizes the example; `rng` is not used."""
        return resize(example, self.size, self.interpolation)

    def sizes(self, height: int, width: int) -> Sizes:
        """Returns the only possible size."""
        return (self.size,)


@dataclasses.dataclass(frozen=True)
class NoResize:
    """Leaves images at their stored size."""

    def __call__(self, example: Example, rng: np.random.Generator | None) -> Example:
        """Returns the example unchanged."""
        return example

    def sizes(self, height: int, width: int) -> Sizes:
        """Returns the image's own size."""
        return ((height, width),)


@dataclasses.dataclass(frozen=True)
class Flip:
    """Mirrors training images left to right.

    Attributes:
      probability: fraction of images to mirror, 0..1.
    """

    probability: float = 0.5

    def __call__(self, example: Example, rng: np.random.Generator | None) -> Example:
        """Mirrors the example at random; without `rng`, returns it unchanged."""
        if rng is None or rng.random() >= self.probability:
            return example
        return flip(example)

    def sizes(self, height: int, width: int) -> Sizes:
        """Returns the image's own size."""
        return ((height, width),)


def resize(example: Example, size: tuple[int, int], interpolation: Interpolation) -> Example:
    """Resizes an image with its boxes and labels.

    Masks do not change: they keep the resolution of the annotation until the batch is filled.

    Args:
      example: example to resize.
      size: new height and width in pixels.
      interpolation: interpolation method, see `resize_image`.

    Returns:
      The resized example.
    """
    height, width = example.size
    scale = np.array([size[1] / width, size[0] / height] * 2)
    labels = example.semantic
    return dataclasses.replace(
        example,
        image=resize_image(example.image, size, interpolation),
        objects=dataclasses.replace(example.objects, boxes=example.objects.boxes * scale[None]),
        semantic=None if labels is None else resize_labels(labels, size),
    )


def flip(example: Example) -> Example:
    """Mirrors an image left to right with its boxes, masks and labels."""
    import cv2

    objects, labels = example.objects, example.semantic
    return dataclasses.replace(
        example,
        image=np.asarray(cv2.flip(example.image, 1), np.uint8),
        objects=dataclasses.replace(
            objects,
            boxes=flip_boxes(objects.boxes, example.size[1]),
            mirrored=~objects.mirrored,
        ),
        semantic=None if labels is None else labels[:, ::-1],
    )


def resize_image(
    image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int], interpolation: Interpolation = "cv2"
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Resizes an image with bilinear interpolation.

    Args:
      image: RGB image.
      size: new height and width.
      interpolation: "cv2" without antialiasing, "pil" with it.

    Returns:
      The resized image.
    """
    import cv2
    from PIL import Image

    if image.shape[:2] == size:
        return image
    width_height = (size[1], size[0])
    if interpolation == "pil":
        picture = Image.fromarray(image).resize(width_height, Image.Resampling.BILINEAR)
        return np.asarray(picture)
    return np.asarray(cv2.resize(image, width_height, interpolation=cv2.INTER_LINEAR), np.uint8)


def resize_labels(
    labels: UInt8[np.ndarray, "h w"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h2 w2"]:
    """Resizes labels: each new pixel takes the label under its centre.

    Pillow (Detectron2) and our mask rasters do the same, which keeps labels aligned with the
    bilinearly resized image. OpenCV's INTER_NEAREST (MMDetection) samples at the upper left corner
    of the pixel instead, up to half a pixel away.

    Args:
      labels: labels of the image as stored.
      size: new height and width.

    Returns:
      The resized labels.
    """
    old = labels.shape
    if old == size:
        return labels
    rows, columns = (
        np.floor((np.arange(new) + 0.5) * (side / new)).astype(np.int64)
        for new, side in zip(size, old, strict=True)
    )
    return labels[np.minimum(rows, old[0] - 1)][:, np.minimum(columns, old[1] - 1)]


def flip_boxes(boxes: Float[np.ndarray, "n 4"], width: float | int) -> Float[np.ndarray, "n 4"]:
    """Mirrors boxes left to right.

    Args:
      boxes: boxes `(x0, y0, x1, y1)` in pixels.
      width: width of the image in pixels.

    Returns:
      The mirrored boxes, still with x0 <= x1.
    """
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


def _scaled(height: int, width: int, scale: float, rounding: Rounding) -> tuple[int, int]:
    extra = 0.5 if rounding == "nearest" else 0.0
    return max(int(height * scale + extra), 1), max(int(width * scale + extra), 1)
