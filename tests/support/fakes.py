"""A small COCO folder, and a model that returns its ground truth."""

import dataclasses
import json
from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np

from segjax.data import rle
from segjax.ops.soft_masks import BoxMasks
from segjax.protocols import ClassCounts, Padding, Task
from segjax.types import Detections

CATEGORIES = [{"id": 3, "name": "disc"}, {"id": 17, "name": "box"}, {"id": 90, "name": "none"}]
CATEGORY_IDS = (3, 17, 90)
SIZES = [(60, 90), (90, 60), (75, 100), (48, 81), (100, 64)]
SIDE = 112
SLOTS = 4


class FakeModel:
    """Members of `segjax.protocols.Model` that the tests do not use."""

    preprocess = None
    backbone = None
    padding = Padding()
    tasks = frozenset({"boxes"})
    classes = ClassCounts(things=0)

    def init(self, rngs, *args, **kwargs):
        raise NotImplementedError

    def with_classes(self, things=None, pixels=None):
        raise NotImplementedError

    def frozen_paths(self):
        raise NotImplementedError

    def losses(self, batch, keys):
        raise NotImplementedError

    def predict(self, images, image_sizes):
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class OracleModel(FakeModel):
    """Recognises images by their colour and returns boxes and masks stored in `variables`."""

    masks: bool = True
    padded: bool = False
    classes: ClassCounts = ClassCounts(things=3)
    padding: Padding = Padding()  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def tasks(self) -> frozenset[Task]:
        return frozenset({"boxes", "masks"} if self.masks else {"boxes"})

    def apply(self, variables: Any, images: Any, image_sizes: Any, *, method: str) -> Detections:
        assert method == "predict"
        image = images[:, 0, 0, 0].astype(jnp.int32) // 10
        size = image_sizes[:, ::-1].astype(jnp.float32)
        known = image < len(SIZES)
        boxes = variables["boxes"][image] * jnp.tile(size, (1, 2))[:, None, :]
        masks = BoxMasks(variables["masks"][image], boxes, self.padded)
        return Detections(
            boxes=boxes,
            scores=variables["scores"][image],
            classes=variables["classes"][image],
            valid=variables["valid"][image] & known[:, None],
            masks=masks if self.masks else None,
        )


def image_of(number: int) -> np.ndarray:
    """Returns the image that `OracleModel` recognises as image `number`."""
    return np.full((*SIZES[number], 3), 10 * number + 5, np.uint8)


def masks_of(number: int) -> list[tuple[int, np.ndarray]]:
    """Returns (category id, mask) of an image's objects; the last image has none."""
    height, width = SIZES[number]
    y, x = np.mgrid[:height, :width]
    disc = (y - height * 0.45) ** 2 + (x - width * 0.4) ** 2 < (0.3 * min(height, width)) ** 2
    box = (y > height * 0.5) & (x >= width * 0.35) & (x < width * 0.9)
    corner = (y < 20) & (x < 12 + number)
    return [(3, disc), (17, box), (17, corner)] if number < len(SIZES) - 1 else []


def write_folder(root):
    """Writes images and annotations of "train" and "val"; returns the annotations of "val"."""
    content = {"images": [], "categories": CATEGORIES, "annotations": []}
    for number, (height, width) in enumerate(SIZES):
        name, image_id = f"picture {number}.png", 100 + 7 * number
        content["images"].append(
            {"id": image_id, "file_name": name, "height": height, "width": width}
        )
        for split in ("train", "val"):
            (root / split).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / split / name), image_of(number))
        for category, mask in masks_of(number):
            x0, y0, x1, y1 = rle.to_bbox(rle.encode(mask))
            content["annotations"].append(
                {
                    "id": len(content["annotations"]),
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": rle.encode(mask),
                }
            )
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        path = root / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(content))
    return content


def oracle_variables() -> dict[str, np.ndarray]:
    """Returns variables of `OracleModel`: relative boxes, classes, scores and mask rasters."""
    count = 26  # the colour is the index
    found = {
        "boxes": np.zeros((count, SLOTS, 4), np.float32),
        "scores": np.zeros((count, SLOTS), np.float32),
        "classes": np.zeros((count, SLOTS), np.int32),
        "valid": np.zeros((count, SLOTS), bool),
        "masks": np.zeros((count, SLOTS, SIDE, SIDE), np.float32),
    }
    for number, (height, width) in enumerate(SIZES):
        for slot, (category, mask) in enumerate(masks_of(number)):
            encoded = rle.encode(mask)
            box = np.array(rle.to_bbox(encoded), np.float32)
            found["boxes"][number, slot] = box / np.array([width, height] * 2)
            found["scores"][number, slot] = 0.9 - 0.1 * slot
            found["classes"][number, slot] = CATEGORY_IDS.index(category)
            found["valid"][number, slot] = True
            raster = rle.decode_crop(encoded, box.tolist(), (SIDE, SIDE))
            found["masks"][number, slot] = raster
    return found
