"""Writes results to files: COCO results, COCO's panoptic PNGs and JSON, and label PNGs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from segjax.data.segments import PanopticCategory
from segjax.results.maps import PanopticMap, SemanticMap
from segjax.results.panoptic_png import annotation, encode_png
from segjax.results.result import Result


def write_results(path: str | Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Writes a COCO results file.

    Args:
      path: JSON file to write; its folder is created if missing.
      entries: COCO results.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(list(entries)), encoding="utf-8")


class MapWriter:
    """Writes the maps of many images: each PNG when it is added, and the lists on `close`.

    Panoptic maps are written to `PREFIXpanoptic/NAME.png` and `PREFIXpanoptic.json`, in COCO's
    format, which `--data.semantic=panoptic` can read. Without panoptic maps, semantic maps are
    written to `PREFIXsemantic/NAME.png`, a grayscale PNG of labels with 255 for unknown, and the
    class names to `PREFIXsemantic.txt`, one per line.

    Args:
      prefix: prefix of the paths: a folder followed by "/", or the beginning of a file name.
    """

    def __init__(self, prefix: str) -> None:
        self._panoptic, self._semantic = Path(f"{prefix}panoptic"), Path(f"{prefix}semantic")
        self._images: list[dict[str, Any]] = []
        self._entries: list[dict[str, Any]] = []
        self._categories: tuple[PanopticCategory, ...] = ()
        self._names: tuple[str, ...] | None = None

    def add(self, found: Result, image_id: int, name: str, image_file: str | None = None) -> None:
        """Writes the maps of one image; does nothing for a result without maps.

        Args:
          found: result of the image.
          image_id: image id for the JSON entry.
          name: name of the PNG, without suffix.
          image_file: file name of the image for the JSON list of images; None if unknown.
        """
        if found.panoptic is not None:
            height, width = found.image_size
            file_name = {} if image_file is None else {"file_name": image_file}
            self._images.append({"id": image_id} | file_name | {"height": height, "width": width})
            self._add_panoptic(found.panoptic, image_id, f"{name}.png")
        elif found.semantic is not None:
            self._add_semantic(found.semantic, f"{name}.png")

    def close(self) -> tuple[Path, ...]:
        """Writes the lists; returns the paths of the lists and the folders of PNGs."""
        written: tuple[Path, ...] = ()
        if self._entries:
            listed = self._panoptic.with_name(f"{self._panoptic.name}.json")
            content = {
                "images": self._images,
                "annotations": self._entries,
                "categories": [
                    {"id": c.id, "name": c.name, "isthing": int(c.is_thing)}
                    for c in self._categories
                ],
            }
            listed.write_text(json.dumps(content), encoding="utf-8")
            written += (listed, self._panoptic)
        if self._names is not None:
            written += (self._semantic,)
            if self._names:
                listed = self._semantic.with_name(f"{self._semantic.name}.txt")
                listed.write_text("".join(f"{name}\n" for name in self._names), encoding="utf-8")
                written += (listed,)
        return written

    def _add_panoptic(self, panoptic: PanopticMap, image_id: int, file_name: str) -> None:
        self._panoptic.mkdir(parents=True, exist_ok=True)
        (self._panoptic / file_name).write_bytes(encode_png(panoptic.ids))
        self._entries.append(annotation(panoptic, image_id, file_name))
        self._categories = panoptic.categories

    def _add_semantic(self, semantic: SemanticMap, file_name: str) -> None:
        self._semantic.mkdir(parents=True, exist_ok=True)
        (self._semantic / file_name).write_bytes(_label_png(semantic.labels))
        self._names = semantic.names


def _label_png(labels: Integer[np.ndarray, "h w"]) -> bytes:
    import cv2

    return cv2.imencode(".png", labels.astype(np.uint8))[1].tobytes()
