"""Prediction on pictures of any size: numpy arrays in, what is found in original pixels out."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped

from segjax.data import canvas
from segjax.data.config import DataConfig
from segjax.data.segments import PanopticCategory
from segjax.figure_ground.refine import MaskRefinement
from segjax.protocols import Model
from segjax.results.classes import Classes
from segjax.results.detections import ImageDetections
from segjax.results.draw import objects as viz
from segjax.results.postprocess import (
    collect_results,
    map_canvas,
    maps_original,
    predict_original,
)
from segjax.results.result import Result


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A model with its weights and its way of resizing, ready for pictures.

    Attributes:
      model: the module.
      variables: its parameters and statistics.
      class_names: the name of every class; () leaves them as numbers.
      category_ids: the dataset's id of every class; () takes 1..K.
      data: how images are resized: the config the model was trained with.
      pad_multiple: padded sides are multiples of this and of the model's `padding.divisor`, where
        no bucket of `data` holds the image: photos of many shapes share a few compiled programs.
        Models whose results depend on the padding (`padding.exact`, as torchvision's) are
        padded to the divisor alone, as torchvision does, and compiled for every shape:
        set `data.buckets` to have fewer, with the results that evaluation has on them.
      semantic_names: of the classes of pixels, by label; () leaves them as numbers.
      panoptic_categories: of the segments of panoptic maps; () makes them of the names.
      refine: how masks are made to follow the contours of the resized picture; None leaves them
        as the model gives them.
    """

    model: Model
    variables: Any
    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    data: DataConfig = DataConfig()
    pad_multiple: int = 128
    semantic_names: tuple[str, ...] = ()
    panoptic_categories: tuple[PanopticCategory, ...] = ()
    refine: MaskRefinement | None = None

    @classmethod
    def of(cls, model: Model, variables: Any, classes: Classes, data: DataConfig) -> "Predictor":
        """A predictor for all the classes that a model's weights are for."""
        return cls(
            model,
            variables,
            classes.names,
            classes.category_ids,
            data=data,
            semantic_names=classes.semantic_names,
            panoptic_categories=classes.panoptic_categories,
        )

    def __call__(
        self,
        image: Shaped[np.ndarray, "h w *c"],
        *,
        score_threshold: float = 0.0,
        max_detections: int | None = None,
    ) -> ImageDetections:
        """Finds the objects of one picture; `result` gives semantic and panoptic maps too.

        Args:
          image: uint8, [h, w] or [h, w, 1] gray, [h, w, 3] RGB or [h, w, 4] RGBA, of any size.
          score_threshold: leave out scores at or below it, besides the model's own threshold.
          max_detections: keep the best so many; None takes what the model gives.

        Returns:
          Objects in pixels of `image`, best first.

        Raises:
          ValueError: if `image` is not a uint8 picture, or has no pixels, or the model knows no
            objects.
        """
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
        image: Shaped[np.ndarray, "h w *c"],
        *,
        score_threshold: float = 0.0,
        max_detections: int | None = None,
    ) -> Result:
        """Finds all that the model gives in one picture: objects, semantic and panoptic map.

        Args:
          image: as for calling the predictor.
          score_threshold: of the objects, as there; the panoptic map has a threshold of its own,
            in the model's `merge`.
          max_detections: of the objects, as there.

        Returns:
          All in pixels of `image`.

        Raises:
          ValueError: if `image` is not a uint8 picture, or has no pixels, or the names of classes
            do not belong together.
        """
        return self._find(image, "semantic" in self.model.tasks, score_threshold, max_detections)

    def _find(
        self,
        image: Shaped[np.ndarray, "h w *c"],
        maps: bool,
        score_threshold: float,
        max_detections: int | None,
    ) -> Result:
        rgb = viz.as_rgb(image)
        height, width = rgb.shape[:2]
        padded, resized = canvas.fit(rgb, self.data, self._divisor)
        inside, sizes = np.array([resized], np.int32), np.array([[height, width]], np.int32)
        found = predict_original(
            self.model, self.variables, padded[None], inside, sizes, refine=self.refine
        )
        made = None
        if maps:
            made = maps_original(
                self.model,
                found,
                inside,
                sizes,
                padded_size=padded.shape[:2],
                canvas=map_canvas(height, width),
            )
        classes = Classes(
            self.class_names, self.category_ids, self.semantic_names, self.panoptic_categories
        )
        return collect_results(
            self.model,
            found,
            made,
            [(height, width)],
            classes.named(self.model) if maps else classes,
            score_threshold=score_threshold,
            max_detections=max_detections,
        )[0]

    @property
    def _divisor(self) -> int:
        """Both sides of padded pictures are multiples of this, where no bucket holds them."""
        padding = self.model.padding
        return padding.divisor if padding.exact else math.lcm(self.pad_multiple, padding.divisor)


def predict(
    model: Model,
    variables: Any,
    image: Shaped[np.ndarray, "h w *c"],
    *,
    class_names: Sequence[str] = (),
    data: DataConfig | None = None,
    pad_multiple: int = 128,
    score_threshold: float = 0.0,
    max_detections: int | None = None,
) -> ImageDetections:
    """Finds the objects of one picture; `Predictor` has the arguments, for many pictures.

    `Predictor.result` also gives the maps of semantic and panoptic models.
    """
    predictor = Predictor(
        model=model,
        variables=variables,
        class_names=tuple(class_names),
        data=DataConfig() if data is None else data,
        pad_multiple=pad_multiple,
    )
    return predictor(image, score_threshold=score_threshold, max_detections=max_detections)
