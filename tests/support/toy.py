"""A model with the detectors' methods that compiles in a second."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from segjax.nn.norm import Norm, NormSpec
from segjax.protocols import ClassCounts, Padding
from segjax.types import Batch, Detections, Dtype, LossTerm


class Toy(nn.Module):
    """Two convolutions and a head, with per-image noise and counts that vary between images."""

    num_classes: int = 3
    features: int = 8
    dtype: Dtype = "float32"
    noise: float = 0.5
    blow_up: bool = False
    running_norm: bool = False
    norm_axis: str | None = None
    frozen: tuple[str, ...] = ("stem",)

    preprocess = None
    backbone = None
    padding = Padding()
    tasks = frozenset({"boxes"})

    @property
    def classes(self) -> ClassCounts:
        return ClassCounts(things=self.num_classes)

    def setup(self) -> None:
        self.stem = nn.Conv(self.features, (3, 3), (2, 2), dtype=self.dtype)
        self.conv = nn.Conv(self.features, (3, 3), (2, 2), dtype=self.dtype)
        self.norm = Norm(NormSpec("batch", axis_name=self.norm_axis))
        self.head = nn.Dense(self.num_classes, dtype=self.dtype)

    def with_classes(self, things: int | None = None, pixels: int | None = None) -> "Toy":
        assert pixels is None
        return self if things is None else self.clone(num_classes=things)

    def frozen_paths(self) -> tuple[str, ...]:
        return self.frozen

    def __call__(self, images: jax.Array, image_sizes: jax.Array, train: bool = False) -> jax.Array:
        x = images.astype(self.dtype) / 255 - 0.5
        x = nn.relu(self.norm(self.conv(nn.relu(self.stem(x))), train and self.running_norm))
        return self.head(x.mean((1, 2)))

    def predict(self, images: jax.Array, image_sizes: jax.Array) -> Detections:
        """Predicts two boxes with scores from the logits, so that scores depend on the weights."""
        scores = jax.nn.softmax(self(images, image_sizes))[:, :2]
        height, width = images.shape[1:3]
        boxes = jnp.array([[0, 0, width / 2, height / 2], [2, 2, width, height]], jnp.float32)
        boxes = jnp.broadcast_to(boxes[None], (len(images), 2, 4))
        classes = jnp.broadcast_to(jnp.arange(2)[None], (len(images), 2))
        return Detections(boxes, scores, classes, jnp.ones_like(classes, bool))

    def losses(self, batch: Batch, keys: jax.Array) -> tuple[dict[str, LossTerm], dict[str, Any]]:
        logits = self(batch.images, batch.image_sizes, train=True)
        noise = jax.vmap(lambda key: jax.random.normal(key, (logits.shape[-1],)))(keys)
        logits = logits + self.noise * noise
        if self.blow_up:  # an all-white image has an infinite loss
            logits = logits / (1 - jnp.all(batch.images == 255, (1, 2, 3))[:, None])
        log_probs = jax.nn.log_softmax(logits)
        each = -jnp.take_along_axis(log_probs, batch.gt_classes, axis=1)
        valid = batch.gt_valid.astype(jnp.float32)
        terms = {
            "class": LossTerm((each * valid).sum(), valid.sum()),
            "size": LossTerm(0.1 * (logits**2).sum(), jnp.float32(logits.shape[0])),
        }
        return terms, {"objects": valid.sum()}


class SemanticToy(Toy):
    """A toy that also learns the frequency of each semantic class."""

    semantic_classes: int = 0

    @property
    def classes(self) -> ClassCounts:
        return ClassCounts(things=self.num_classes, pixels=self.semantic_classes)

    def setup(self) -> None:
        super().setup()
        shape = (self.semantic_classes,)
        self.frequency = self.param("frequency", nn.initializers.zeros, shape)

    def with_classes(self, things: int | None = None, pixels: int | None = None) -> "SemanticToy":
        model = self if things is None else self.clone(num_classes=things)
        return model if pixels is None else model.clone(semantic_classes=pixels)

    def losses(self, batch: Batch, keys: jax.Array) -> tuple[dict[str, LossTerm], dict[str, Any]]:
        terms, counts = super().losses(batch, keys)
        labels = batch.gt_semantic
        assert labels is not None
        # Integers, so that the sum is the same for any split of the images.
        pixels = jnp.stack([(labels == k).sum() for k in range(len(self.frequency))])
        pixels = pixels.astype(jnp.float32)
        log_probs = jax.nn.log_softmax(self.frequency)
        term = LossTerm(-(pixels * log_probs).sum(), pixels.sum())
        return terms | {"semantic": term}, counts


def random_labels(seed: int, classes: int = 4, images: int = 8, side: int = 32) -> np.ndarray:
    """Random semantic labels, with a different share of ignored pixels in each image."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, (2, images, side, side), dtype=np.uint8).min(axis=0)
    hidden = rng.random(labels.shape) < np.linspace(0, 1, images)[:, None, None]
    return np.where(hidden, np.uint8(255), labels)


def random_batch(
    seed: int, images: int = 8, side: int = 32, rows: int = 3
) -> dict[str, np.ndarray]:
    """A random batch in the pipeline's format."""
    rng = np.random.default_rng(seed)
    return {
        "images": rng.integers(0, 255, (images, side, side, 3), dtype=np.uint8),
        "image_sizes": np.full((images, 2), side, np.int32),
        "gt_boxes": np.zeros((images, rows, 4), np.float32),
        "gt_classes": rng.integers(0, 3, (images, rows), dtype=np.int32),
        "gt_valid": rng.random((images, rows)) < 0.6,
        "gt_is_crowd": np.zeros((images, rows), bool),
        "gt_masks": np.zeros((images, rows, 1, 1), np.uint8),
        "gt_mask_frames": np.zeros((images, rows, 4), np.float32),
        "image_ids": np.arange(images) + 100 * seed,
        "truncated": np.zeros(images, np.int32),
        "dropped_degenerate": np.zeros(images, np.int32),
    }
