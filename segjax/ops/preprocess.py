"""Converts uint8 images to the inputs that a backbone was trained on, on the device."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, UInt8


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Channel order and normalisation of a backbone's inputs.

    Attributes:
      mean: mean to subtract, in 0..255, in the network's channel order.
      std: standard deviation to divide by, in 0..255, in the same order.
      bgr: True if the network takes BGR (Detectron2's and mmdet's "caffe" weights).
        Images are always passed as RGB.
    """

    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    bgr: bool = False

    def __call__(
        self, images: UInt8[Array, "B H W 3"], image_sizes: Int32[Array, "B 2"]
    ) -> Float[Array, "B H W 3"]:
        """Normalises images [B, H, W, 3] and sets the padding to 0, as all three peers do."""
        x = images[..., ::-1] if self.bgr else images
        mean = jnp.array(self.mean, jnp.float32)[None, None, None]
        std = jnp.array(self.std, jnp.float32)[None, None, None]
        x = (x.astype(jnp.float32) - mean) / std
        rows = jnp.arange(x.shape[1])[None] < image_sizes[:, :1]  # [B, H]
        columns = jnp.arange(x.shape[2])[None] < image_sizes[:, 1:]  # [B, W]
        return jnp.where((rows[:, :, None] & columns[:, None])[..., None], x, 0.0)
