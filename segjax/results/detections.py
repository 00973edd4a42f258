"""Detections of one image on the host, in pixels of the original image."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from jaxtyping import Bool, Float32, Int32

from segjax.data import rle
from segjax.results.coco_entries import checked_rle

if TYPE_CHECKING:
    from segjax.results.result import Object

_SHOWN = 30  # maximum number of objects in a printed table


@dataclasses.dataclass(frozen=True)
class ImageDetections:
    """Objects of one image, best first, in pixels of the original image.

    Attributes:
      boxes: bounding boxes (x0, y0, x1, y1), inside the image.
      scores: probabilities in 0..1, or None for ground truth.
      classes: class indices 0..K-1.
      image_size: (height, width) of the image.
      class_names: name of every class; () if unknown.
      mask_rles: COCO RLE of each object, or None without masks. Masks are decoded on demand, as a
        hundred full-size ones need a lot of memory.
    """

    boxes: Float32[np.ndarray, "n 4"]
    scores: Float32[np.ndarray, "n"] | None
    classes: Int32[np.ndarray, "n"]
    image_size: tuple[int, int]
    class_names: tuple[str, ...] = ()
    mask_rles: tuple[rle.Rle, ...] | None = None

    def __len__(self) -> int:
        """Returns the number of objects."""
        return len(self.boxes)

    @functools.cached_property
    def objects(self) -> "tuple[Object, ...]":
        """Individual objects, in the order of the detections."""
        from segjax.results.result import Result  # here because that module imports this one

        found = Result(self.image_size, instances=self).objects
        return tuple(sorted(found, key=lambda one: one.index))

    def __iter__(self) -> "Iterator[Object]":
        """Iterates over `objects`."""
        return iter(self.objects)

    @overload
    def __getitem__(self, key: int) -> "Object": ...
    @overload
    def __getitem__(self, key: slice | Sequence[int] | np.ndarray) -> "ImageDetections": ...
    def __getitem__(
        self, key: int | slice | Sequence[int] | np.ndarray
    ) -> "Object | ImageDetections":
        """Returns one object, or the detections selected by a slice, indices or a boolean array."""
        if isinstance(key, int | np.integer):
            return self.objects[key]
        chosen = np.arange(len(self))[key if isinstance(key, slice) else np.asarray(key)]
        return self._taken(chosen)

    def __str__(self) -> str:
        """Formats a table with name, score, box and mask area of each object."""
        height, width = self.image_size
        rows: list[tuple[str, ...]] = [("", "name", "score", "x0", "y0", "x1", "y1", "area")]
        for one in self.objects:
            area = f"{one.mask.area}" if one.mask_rle is not None else ""
            score = "" if one.score is None else f"{one.score:.3f}"
            rows.append((str(one.index), one.name, score, *(f"{v:.1f}" for v in one.box), area))
        sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
        aligned = ["<" if place == 1 else ">" for place in range(len(sizes))]
        lines = [
            "  ".join(f"{t:{a}{n}}" for t, a, n in zip(row, aligned, sizes, strict=True)).rstrip()
            for row in rows[: 1 + _SHOWN]
        ]
        if len(self) > _SHOWN:
            lines.append(f"... and {len(self) - _SHOWN} more")
        return "\n".join([f"{len(self)} objects in {height} x {width} pixels", *lines])

    def to_supervision(self) -> Any:
        """Converts to `supervision.Detections`, for its tracking, zones and annotated images.

        Raises:
          ModuleNotFoundError: if the package supervision is not installed.
        """
        try:
            import supervision
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "to_supervision needs the package supervision: pip install supervision"
            ) from error
        return supervision.Detections(
            xyxy=self.boxes.reshape(-1, 4),
            mask=self.masks,
            confidence=self.scores,
            class_id=self.classes.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def mask(self, index: int) -> Bool[np.ndarray, "h w"]:
        """Decodes the mask of one object over the whole image.

        Raises:
          ValueError: if the detections have no masks.
        """
        if self.mask_rles is None:
            raise ValueError("these detections have no masks: the model has no mask head")
        return rle.decode(self.mask_rles[index]).astype(bool)

    @functools.cached_property
    def masks(self) -> Bool[np.ndarray, "n h w"] | None:
        """All masks over the whole image, decoded on first use; None without masks."""
        if self.mask_rles is None:
            return None
        decoded = np.zeros((len(self), *self.image_size), bool)
        for index in range(len(self)):
            decoded[index] = self.mask(index)
        return decoded

    @property
    def names(self) -> list[str]:
        """Class name of every object; the class index as text if the name is unknown."""
        known = self.class_names
        return [known[k] if k < len(known) else str(k) for k in self.classes]

    def select(self, keep: Bool[np.ndarray, "n"]) -> "ImageDetections":
        """Returns the objects where `keep` is True."""
        return self._taken(np.flatnonzero(keep))

    def _taken(self, chosen: np.ndarray) -> "ImageDetections":
        return dataclasses.replace(
            self,
            boxes=self.boxes[chosen],
            scores=None if self.scores is None else self.scores[chosen],
            classes=self.classes[chosen],
            mask_rles=None if self.mask_rles is None else tuple(self.mask_rles[i] for i in chosen),
        )

    def above(self, score_threshold: float) -> "ImageDetections":
        """Returns the objects with a score above the threshold; all objects without scores."""
        if self.scores is None:
            return self
        return self.select(self.scores > score_threshold)

    def to_coco(self, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """Converts to entries of a COCO results file.

        Args:
          image_id: id of the image.
          category_ids: category id of every class index.
        """
        x0, y0, x1, y1 = self.boxes.astype(np.float64).T
        entries = []
        for i, bbox in enumerate(np.stack([x0, y0, x1 - x0, y1 - y0], axis=1)):
            entry = {
                "image_id": int(image_id),
                "category_id": int(category_ids[self.classes[i]]),
                "bbox": [float(value) for value in bbox],
                "score": 1.0 if self.scores is None else float(self.scores[i]),
            }
            if self.mask_rles is not None:
                entry["segmentation"] = self.mask_rles[i]
            entries.append(entry)
        return entries

    @classmethod
    def from_coco(
        cls,
        entries: Sequence[Mapping[str, Any]],
        image_size: tuple[int, int],
        category_ids: Sequence[int],
        class_names: Sequence[str] = (),
    ) -> "ImageDetections":
        """Creates detections from the annotations or results of one image.

        Args:
          entries: COCO annotations (ground truth, without scores) or results of one image.
          image_size: (height, width) of the image.
          category_ids: category id of every class index.
          class_names: name of every class.

        Raises:
          ValueError: for a malformed segmentation or an unknown category.
        """
        class_of = {category: index for index, category in enumerate(category_ids)}
        unknown = {entry["category_id"] for entry in entries} - set(class_of)
        if unknown:
            raise ValueError(f"category ids {sorted(unknown)} are not among {list(category_ids)}")
        scored = bool(entries) and all("score" in entry for entry in entries)
        masked = bool(entries) and all("segmentation" in entry for entry in entries)
        xywh = np.array([entry["bbox"] for entry in entries], np.float32).reshape(-1, 4)
        return cls(
            boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
            scores=np.array([e["score"] for e in entries], np.float32) if scored else None,
            classes=np.array([class_of[e["category_id"]] for e in entries], np.int32),
            image_size=image_size,
            class_names=tuple(class_names),
            mask_rles=tuple(checked_rle(e["segmentation"], *image_size) for e in entries)
            if masked
            else None,
        )
