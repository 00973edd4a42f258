"""All that is found in one picture: objects, classes of pixels, segments; and ways between."""

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
    """One object, as people speak of it.

    Attributes:
      name: "person 2": class and number, from the best score down; no other object has it, and
        pictures of the result use it.
      class_name: "person".
      class_index: 0..K-1.
      score: in 0..1; None for ground truth.
      box: (x0, y0, x1, y1) in pixels, as the model gave it; that of the mask is `mask.box`.
      index: its place among the instances.
      mask_rle: COCO's run lengths; None where the model gives no masks.
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
        """The mask, not yet decoded.

        Raises:
          ValueError: if the object has none.
        """
        if self.mask_rle is None:
            raise ValueError(f"{self.name} has no mask: the model has no mask head")
        return Mask(self.mask_rle)


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """Results of a model on one picture, in the picture's own pixels, on the host.

    A model fills what it gives; the methods make the rest of it, each by a rule of its own
    (`eval/conversions.py`), and change nothing here: `dataclasses.replace` puts what they
    return in its place.

    Attributes:
      image_size: (height, width) of the picture.
      instances: objects, which may overlap.
      semantic: the class of every pixel.
      panoptic: the segment of every pixel.
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
        """The objects, best score first, earlier ones first where scores are equal.

        Those of `instances`, or of `panoptic` where there are no instances. Each class is
        numbered from the best score down, so that leaving out low scores renames nobody.

        Raises:
          ValueError: if there are neither.
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
        """The object of a name, as "person 2".

        Raises:
          ValueError: if nothing is called so.
        """
        for found in self.objects:
            if found.name == name:
                return found
        names = [found.name for found in self.objects]
        raise ValueError(f"no object is called {name!r}: there are {names}")

    @functools.cached_property
    def segment_names(self) -> dict[int, str]:
        """Names of the panoptic map's segments, by segment id: those of `objects`.

        Stuff, crowds, and segments of objects that `instances` does not hold (those of low score
        may have been left out) have no name of their own.

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
            # Unlike scores mean that `instances` was replaced by others.
            if found is not None and found.score == segment.score:
                names[segment.id] = found.name
        return names

    def to_supervision(self) -> Any:
        """Returns the instances as `supervision.Detections`.

        Raises:
          ValueError: if there are neither instances nor a panoptic map.
          ModuleNotFoundError: without the package supervision.
        """
        found = self.panoptic_to_instances() if self.instances is None else self.instances
        return found.to_supervision()

    def counts(self, score_threshold: float = 0.5) -> dict[str, int]:
        """Objects per class, in the order of the classes; classes without objects left out.

        A panoptic model's instances are counted before the merge, as they are scored:
        `dataclasses.replace(result, instances=None).counts()` counts what the panoptic map has
        left of them.

        Args:
          score_threshold: leave out scores at or below it, as the conversions and pictures do;
            0 counts all that the model gives, noise included. Objects without scores count.
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
        """Paints the instances into a semantic map: `conversions.semantic_of_instances`.

        Raises:
          ValueError: without instances or without masks.
        """
        return conversions.semantic_of_instances(
            _given(self.instances, "instances"),
            score_threshold=score_threshold,
            background=background,
        )

    def panoptic_to_semantic(self) -> SemanticMap:
        """Forgets which object a pixel belongs to: `conversions.semantic_of_panoptic`.

        Raises:
          ValueError: without a panoptic map.
        """
        return conversions.semantic_of_panoptic(_given(self.panoptic, "panoptic map"))

    def panoptic_to_instances(self) -> ImageDetections:
        """The things of the panoptic map as objects: `conversions.instances_of_panoptic`.

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
        """Merges instances and semantic map: `conversions.panoptic_of_parts`.

        Raises:
          ValueError: without either, without masks, or if names do not belong together.
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
