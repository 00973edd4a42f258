"""Head of the region proposal network (1506.01497), shared by all pyramid levels."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from segjax.nn.conv import Conv
from segjax.types import Dtype, struct

_init = nn.initializers.normal(0.01)


@struct
class RPNOutput:
    """Outputs for every anchor; anchors of a level are in (H, W, A) order.

    Attributes:
      objectness_logits: logits [B, h * w * A] of each level.
      box_deltas: deltas [B, h * w * A, 4] of each level.
    """

    objectness_logits: tuple[Float[Array, "B _"], ...]
    box_deltas: tuple[Float[Array, "B _ 4"], ...]


class RPNHead(nn.Module):
    """`num_convs` 3x3 convolutions with ReLU, then 1x1 objectness and 1x1 deltas.

    Attributes:
      num_anchors: number A of anchors per cell.
      num_convs: number of 3x3 convolutions: 1, or 2 (torchvision v2, Detectron2 LSJ).
      dtype: compute dtype; outputs are float32.
    """

    num_anchors: int = 3
    num_convs: int = 1
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, features: Sequence[Float[Array, "B _ _ C"]]) -> RPNOutput:
        """Pyramid levels [B, h, w, C] -> logits and deltas of all anchors."""
        channels = features[0].shape[-1]
        convs = [
            Conv(channels, 3, kernel_init=_init, dtype=self.dtype, name=f"conv{i + 1}")
            for i in range(self.num_convs)
        ]
        objectness = Conv(self.num_anchors, kernel_init=_init, dtype=self.dtype, name="objectness")
        deltas = Conv(4 * self.num_anchors, kernel_init=_init, dtype=self.dtype, name="deltas")
        all_logits, all_deltas = [], []
        for level in features:
            x = level
            for conv in convs:
                x = nn.relu(conv(x))
            batch = x.shape[0]
            all_logits.append(objectness(x).astype(jnp.float32).reshape(batch, -1))
            all_deltas.append(deltas(x).astype(jnp.float32).reshape(batch, -1, 4))
        return RPNOutput(tuple(all_logits), tuple(all_deltas))
