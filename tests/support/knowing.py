"""A small dataset of shapes on stuff backgrounds, and models that return its ground truth."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from segjax.data.build import open_records
from segjax.data.config import DataConfig
from segjax.data.images import decode_image
from segjax.data.shapes import ShapesConfig
from segjax.models import PanopticMerge
from segjax.models.panoptic_fpn import panoptic_map
from segjax.ops.soft_masks import BoxMasks
from segjax.protocols import ClassCounts, Task
from segjax.types import Detections
from tests.support.fakes import FakeModel

SIDE, SLOTS = 64, 4
SHAPES = ShapesConfig(
    image_size=SIDE,
    num_train=4,
    num_val=5,
    min_side=16,
    max_side=32,
    crowd_fraction=0.4,
    stuff_regions=2,
)


def data_config(folder, **changes) -> DataConfig:
    """Returns a config with batches of 2, so that the last batch has a padding row."""
    given: dict[str, Any] = {"semantic": "panoptic", "merge_things": "first"}
    return DataConfig(
        name="shapes",
        shapes=SHAPES,
        root=f"{folder}/shapes",
        cache_dir=f"{folder}/cache",
        resize="none",
        batch_size=2,
        eval_batch_size=2,
        max_instances=8,
        overflow="drop_smallest",
        mask_size=14,
        **(given | changes),
    )


@dataclasses.dataclass(frozen=True)
class KnowingModel(FakeModel):
    """Recognises images by the sum of their pixels; `variables` hold the answers."""

    num_classes: int | None
    semantic_classes: int
    merge: PanopticMerge | None = None

    @property
    def tasks(self) -> frozenset[Task]:
        found = {"boxes", "masks"} if self.num_classes is not None else set()
        return frozenset({*found, "semantic"} | ({"panoptic"} if self.merge else set()))

    @property
    def classes(self) -> ClassCounts:
        things = self.merge.things if self.merge else None
        return ClassCounts(self.num_classes, self.semantic_classes, things)

    def with_score_threshold(self, threshold):
        raise NotImplementedError

    def to_panoptic(self, found, semantic):
        return panoptic_map(found, semantic, self.merge) if self.merge else None

    def apply(self, variables: Any, images: Any, image_sizes: Any, *, method: str) -> Detections:
        assert method == "predict"
        sums = images.astype(jnp.int32).sum((1, 2, 3))
        image = jnp.abs(sums[:, None] - variables["sums"][None]).argmin(1)
        slots = 0 if self.num_classes is None else SLOTS
        whole = jnp.array([0, 0, SIDE, SIDE], jnp.float32)
        boxes = jnp.broadcast_to(whole, (len(images), slots, 4))
        return Detections(
            boxes=boxes,
            scores=variables["scores"][image][:, :slots],
            classes=variables["classes"][image][:, :slots],
            valid=variables["scores"][image][:, :slots] > 0,
            masks=BoxMasks(variables["masks"][image], boxes) if slots else None,
            semantic_logits=variables["logits"][image],
        )


def truth(dataset, split="val") -> dict[str, np.ndarray]:
    """Returns the variables of `KnowingModel`; crowds are excluded."""
    labels, segments = dataset.semantic_labels(split), dataset.panoptic(split)
    class_of = {number: place for place, number in enumerate(dataset.category_ids)}
    count = len(labels)
    known = {
        "sums": np.zeros(count, np.int32),
        "scores": np.zeros((count, SLOTS), np.float32),
        "classes": np.zeros((count, SLOTS), np.int32),
        "masks": np.zeros((count, SLOTS, SIDE, SIDE), np.float32),
        "logits": np.zeros((count, SIDE, SIDE, len(dataset.semantic_names)), np.float32),
    }
    records = open_records(dataset.split(split))
    for row, image_id in enumerate(labels):
        known["sums"][row] = decode_image(records[row]["image"]).astype(np.int32).sum()
        ids, found = segments[image_id]
        things = [s for s in found if s.category_id in class_of and not s.is_crowd]
        for slot, segment in enumerate(things):
            known["scores"][row, slot] = 0.9 - 0.1 * slot
            known["classes"][row, slot] = class_of[segment.category_id]
            known["masks"][row, slot] = ids == segment.id
        known["logits"][row] = 5 * (
            labels[image_id][..., None] == np.arange(known["logits"].shape[-1])
        )
    return known
