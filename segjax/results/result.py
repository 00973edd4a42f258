"""Result of a model on one image: objects, semantic map, panoptic map, and conversions."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float32

from segjax.data import rle
from segjax.data.segments import PanopticCategory
from segjax.results import conversions
from segjax.results.detections import ImageDetections
from segjax.results.maps import PanopticMap, SemanticMap
from segjax.results.mask import Mask

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, eq=False)
class Object:
    """One object, with a name for people to refer to it.

    Attributes:
      name: unique name, such as "person 2": class and rank by score. Images of the result show it.
      class_name: class name, such as "person".
      class_index: class index 0..K-1.
      score: score in 0..1; None for ground truth.
      box: predicted bounding box (x0, y0, x1, y1) in pixels; for that of the mask, see `mask.box`.
      index: index of the object among the instances.
      mask_rle: COCO RLE of the mask; None if the model predicts no masks.
    """

    name: str
    class_name: str
    class_index: int
    score: float | None
    box: Float32[np.ndarray, "4"]
    index: int
    mask_rle: rle.Rle | None = None

    @functools.cached_property
    def mask(self) -> Mask:
        """Mask of the object; decoded on demand.

        Raises:
          ValueError: if the object has none.
        """
        if self.mask_rle is None:
            raise ValueError(f"{self.name} has no mask: the model has no mask head")
        return Mask(self.mask_rle)


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """Results of a model on one image, on the host, in pixels of the original image.

    A model fills in the parts that it predicts. The methods derive the others from them, by the
    rules in `results/conversions.py`. They return new parts and do not modify the result; use
    `dataclasses.replace` to insert them.

    Attributes:
      image_size: (height, width) of the image.
      instances: objects, which may overlap.
      semantic: class of every pixel.
      panoptic: segment of every pixel.
    """

    image_size: tuple[int, int]
    instances: ImageDetections | None = None
    semantic: SemanticMap | None = None
    panoptic: PanopticMap | None = None

    def __post_init__(self) -> None:
        for field in ("instances", "semantic", "panoptic"):
            part = getattr(self, field)
            if part is not None and tuple(part.image_size) != tuple(self.image_size):
                raise ValueError(
                    f"{field} are of an image of {tuple(part.image_size)} pixels (height, width),"
                    f" the result is of {tuple(self.image_size)}: wanted one image"
                )

    @functools.cached_property
    def objects(self) -> tuple[Object, ...]:
        """Objects by descending score, in their original order for equal scores.

        They come from `instances`, or from `panoptic` if there are no instances. Objects of each
        class are numbered by descending score, so that names do not change if low scores are
        dropped.

        Raises:
          ValueError: if the result has neither.
        """
        found = self.panoptic_to_instances() if self.instances is None else self.instances
        order = np.arange(len(found))
        if found.scores is not None:
            order = np.argsort(-found.scores, kind="stable")
        numbers: dict[str, int] = {}
        objects = []
        for i in order.tolist():
            class_name = _class_name(found, i)
            numbers[class_name] = numbers.get(class_name, 0) + 1
            objects.append(_object(found, i, class_name, numbers[class_name]))
        return tuple(objects)

    def object(self, name: str) -> Object:
        """Returns the object with a name, such as "person 2".

        Raises:
          ValueError: if no object has this name.
        """
        for found in self.objects:
            if found.name == name:
                return found
        names = [found.name for found in self.objects]
        raise ValueError(f"no object is called {name!r}: there are {names}")

    @functools.cached_property
    def segment_names(self) -> dict[int, str]:
        """Names of the panoptic map's segments by segment id, matching the names of `objects`.

        Stuff, crowds, and objects that are missing from `instances` (because of a low score, for
        example) have no name.

        Raises:
          ValueError: without a panoptic map.
        """
        panoptic = _given(self.panoptic, "panoptic map")
        if self.instances is None:
            things = conversions.objects_of_panoptic(panoptic)
            return {things[found.index].id: found.name for found in self.objects}
        of_index = {found.index: found for found in self.objects}
        names = {}
        for segment in panoptic.segments:
            found = None if segment.instance is None else of_index.get(segment.instance)
            # Scores differ if `instances` has been replaced, so that indices no longer match.
            if found is not None and found.score == segment.score:
                names[segment.id] = found.name
        return names

    def to_supervision(self) -> Any:
        """Converts the instances to `supervision.Detections`.

        Raises:
          ValueError: if there are neither instances nor a panoptic map.
          ModuleNotFoundError: if the package supervision is not installed.
        """
        found = self.panoptic_to_instances() if self.instances is None else self.instances
        return found.to_supervision()

    def counts(self, score_threshold: float = 0.5) -> dict[str, int]:
        """Counts the objects of each class, in class order; classes without objects are omitted.

        For a panoptic model, this counts the instances before the merge. To count the objects in
        the panoptic map, use `dataclasses.replace(result, instances=None).counts()`.

        Args:
          score_threshold: objects with a score up to this are not counted, as in conversions and
            images. 0 counts everything that the model predicts, including noise. Objects without
            scores are always counted.
        """
        threshold = np.float32(score_threshold)  # as `ImageDetections.above` compares
        chosen = [o for o in self.objects if o.score is None or o.score > threshold]
        counts: dict[str, int] = {}
        for found in sorted(chosen, key=lambda o: o.class_index):
            counts[found.class_name] = counts.get(found.class_name, 0) + 1
        return counts

    def instances_to_semantic(
        self, *, score_threshold: float = 0.5, background: str | None = None
    ) -> SemanticMap:
        """Paints the instances into a semantic map; see `conversions.semantic_of_instances`.

        Raises:
          ValueError: without instances or without masks.
        """
        return conversions.semantic_of_instances(
            _given(self.instances, "instances"),
            score_threshold=score_threshold,
            background=background,
        )

    def panoptic_to_semantic(self) -> SemanticMap:
        """Reduces segments to their classes; see `conversions.semantic_of_panoptic`.

        Raises:
          ValueError: without a panoptic map.
        """
        return conversions.semantic_of_panoptic(_given(self.panoptic, "panoptic map"))

    def panoptic_to_instances(self) -> ImageDetections:
        """Converts the map's things to objects; see `conversions.instances_of_panoptic`.

        Raises:
          ValueError: without a panoptic map.
        """
        return conversions.instances_of_panoptic(_given(self.panoptic, "panoptic map"))

    def to_panoptic(
        self,
        categories: Sequence[PanopticCategory] = (),
        *,
        score_threshold: float = 0.5,
        overlap_threshold: float = 0.5,
        stuff_area: int = 4096,
    ) -> PanopticMap:
        """Merges instances and semantic map; see `conversions.panoptic_of_parts`.

        Raises:
          ValueError: if either is missing, there are no masks, or names do not match.
        """
        return conversions.panoptic_of_parts(
            _given(self.instances, "instances"),
            _given(self.semantic, "semantic map"),
            categories,
            score_threshold=score_threshold,
            overlap_threshold=overlap_threshold,
            stuff_area=stuff_area,
        )


def _given(part: _T | None, word: str) -> _T:
    if part is None:
        raise ValueError(
            f"this result has no {word}: take a model that gives one, or make it from what the"
            " result has and put it in with dataclasses.replace"
        )
    return part


def _class_name(found: ImageDetections, i: int) -> str:
    k = int(found.classes[i])
    return found.class_names[k] if k < len(found.class_names) else f"class {k}"


def _object(found: ImageDetections, i: int, class_name: str, number: int) -> Object:
    return Object(
        name=f"{class_name} {number}",
        class_name=class_name,
        class_index=int(found.classes[i]),
        score=None if found.scores is None else float(found.scores[i]),
        box=found.boxes[i],
        index=i,
        mask_rle=None if found.mask_rles is None else found.mask_rles[i],
    )
