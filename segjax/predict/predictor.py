"""Prediction on images of any size, with results in pixels of the original image."""

# pyright: strict, reportUnknownMemberType=false, reportMissingTypeStubs=false
# jax.jit and lax.map forget types:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import dataclasses
import math
from typing import Any, TypeAlias, overload

import numpy as np
from jaxtyping import UInt8

from segjax.data import canvas
from segjax.data.config import DataConfig
from segjax.figure_ground.refine import MaskRefinement
from segjax.predict.images import as_image
from segjax.predict.tiles import Tiles, find_in_tiles, label_in_tiles
from segjax.protocols import Model
from segjax.results.classes import Classes
from segjax.results.detections import ImageDetections
from segjax.results.maps import SemanticMap
from segjax.results.postprocess import (
    MapOutputs,
    collect_results,
    map_canvas,
    maps_original,
    predict_original,
)
from segjax.results.result import Result
from segjax.types import Detections

# A path, a URL, a PIL image, or an array: see `segjax.predict.images.as_image`.
Picture: TypeAlias = Any


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A model with its weights and preprocessing, ready to predict images.

    Attributes:
      model: the module.
      variables: its parameters and statistics.
      classes: names and ids of the model's classes. Names that are unknown leave classes as
        numbers; without category ids, JSON has 1..K.
      data: how images are resized: the config the model was trained with.
      pad_multiple: padded sides are multiples of this and of the model's `padding.divisor`, where
        no bucket of `data` holds the image: photos of many shapes share a few compiled programs.
        Models whose results depend on the padding (`padding.exact`, as torchvision's) are
        padded to the divisor alone, as torchvision does, and compiled for every shape:
        set `data.buckets` to have fewer, with the results that evaluation has on them.
      refine: how masks are made to follow the contours of the resized picture; None leaves them
        as the model gives them.
      tiles: settings for large pictures, which are predicted in overlapping tiles; None predicts
        them whole. Results have objects and classes of pixels, but no panoptic map.
    """

    model: Model
    variables: Any
    classes: Classes = Classes()
    data: DataConfig = DataConfig()
    pad_multiple: int = 128
    refine: MaskRefinement | None = None
    tiles: Tiles | None = None

    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self,
        image: list[Any] | tuple[Any, ...],
        *,
        score_threshold: float = 0.0,
        max_detections: int | None = None,
    ) -> list[ImageDetections]: ...
    @overload
    def __call__(
        self, image: Picture, *, score_threshold: float = 0.0, max_detections: int | None = None
    ) -> ImageDetections: ...
    def __call__(
        self,
        image: Picture,
        *,
        score_threshold: float = 0.0,
        max_detections: int | None = None,
    ) -> ImageDetections | list[ImageDetections]:
        """Predicts the objects of an image; use `result` to also get semantic and panoptic maps.

        Args:
          image: image of any size, as for `segjax.predict.images.as_image`: a path, a URL, a PIL
            image or an array. For a list or a batch [n, h, w, c], a list is returned.
          score_threshold: objects with a score up to this are dropped, after the model's own
            threshold.
          max_detections: maximum number of objects, best first; None for no limit.

        Returns:
          Objects in pixels of `image`, best first.

        Raises:
          OSError: if a file cannot be opened or fetched.
          ValueError: if `image` is not an image, the model predicts no objects, the threshold is
            NaN or above 1, or `max_detections` is negative.
        """
        if isinstance(image, list | tuple) or getattr(image, "ndim", 0) == 4:
            return [
                self(one, score_threshold=score_threshold, max_detections=max_detections)
                for one in image
            ]
        if self.model.classes.things is None:
            raise ValueError(
                "the model knows no objects, it gives the class of every pixel: use"
                " Predictor.result(image).semantic"
            )
        found = self._find(image, False, score_threshold, max_detections).instances
        assert found is not None
        return found

    def result(
        self,
        image: Picture,
        *,
        score_threshold: float = 0.0,
        max_detections: int | None = None,
    ) -> Result:
        """Predicts all outputs of the model for an image: objects, semantic and panoptic map.

        Args:
          image: image as for `__call__`; a single one.
          score_threshold: score threshold of the objects, as for `__call__`. The panoptic map has
            a separate threshold in the model's `merge`.
          max_detections: maximum number of objects, as for `__call__`.

        Returns:
          The result, in pixels of `image`.

        Raises:
          OSError: if a file cannot be opened or fetched.
          ValueError: if `image` is not an image, class names do not match, the threshold is NaN or
            above 1, or `max_detections` is negative.
        """
        return self._find(image, "semantic" in self.model.tasks, score_threshold, max_detections)

    def _find(
        self,
        image: Picture,
        maps: bool,
        score_threshold: float,
        max_detections: int | None,
    ) -> Result:
        if not score_threshold <= 1:  # also rejects NaN
            raise ValueError(f"score_threshold is {score_threshold}: wanted a number in 0..1")
        if max_detections is not None and max_detections < 0:
            raise ValueError(f"max_detections is {max_detections}: wanted 0 or more, or None")
        rgb = as_image(image)
        height, width = rgb.shape[:2]
        if self.tiles is not None and max(height, width) > self.tiles.size:
            return self._find_in_tiles(self.tiles, rgb, maps, score_threshold, max_detections)
        padded, resized = canvas.fit(rgb, self.data, self._divisor)
        inside, sizes = np.array([resized], np.int32), np.array([[height, width]], np.int32)
        found: Detections = predict_original(
            self.model, self.variables, padded[None], inside, sizes, refine=self.refine
        )
        made: MapOutputs | None = None
        if maps:
            made = maps_original(
                self.model,
                found,
                inside,
                sizes,
                padded_size=padded.shape[:2],
                canvas=map_canvas(height, width),
            )
        result = collect_results(
            self.model,
            found,
            made,
            [(height, width)],
            self.classes.named(self.model) if maps else self.classes,
            score_threshold=score_threshold,
            max_detections=max_detections,
        )[0]
        # Small pictures have what large ones have.
        return result if self.tiles is None else dataclasses.replace(result, panoptic=None)

    def _find_in_tiles(
        self,
        tiles: Tiles,
        rgb: UInt8[np.ndarray, "h w 3"],
        maps: bool,
        score_threshold: float,
        max_detections: int | None,
    ) -> Result:
        whole = dataclasses.replace(self, tiles=None)

        def find(tile: UInt8[np.ndarray, "h w 3"]) -> ImageDetections:
            return whole(tile, score_threshold=score_threshold)

        def label(tile: UInt8[np.ndarray, "h w 3"]) -> SemanticMap:
            made = whole.result(tile).semantic
            assert made is not None
            return made

        instances = None
        if self.model.classes.things is not None:
            instances = find_in_tiles(find, rgb, tiles)[:max_detections]
        semantic = label_in_tiles(label, rgb, tiles) if maps else None
        height, width = rgb.shape[:2]
        return Result((height, width), instances, semantic)

    @property
    def _divisor(self) -> int:
        """Number of pixels that padded sides are multiples of, for images outside all buckets."""
        padding = self.model.padding
        return padding.divisor if padding.exact else math.lcm(self.pad_multiple, padding.divisor)


def predict(
    model: Model,
    variables: Any,
    image: Picture,
    *,
    classes: Classes = Classes(),
    data: DataConfig | None = None,
    pad_multiple: int = 128,
    score_threshold: float = 0.0,
    max_detections: int | None = None,
) -> ImageDetections:
    """Predicts the objects of one image; see `Predictor` for the arguments.

    Use `Predictor` directly for many images, and `Predictor.result` to also get semantic and
    panoptic maps.
    """
    predictor = Predictor(
        model=model,
        variables=variables,
        classes=classes,
        data=DataConfig() if data is None else data,
        pad_multiple=pad_multiple,
    )
    return predictor(image, score_threshold=score_threshold, max_detections=max_detections)
