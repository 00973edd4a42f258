"""Box heads, which turn region features into class logits and box deltas."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from segjax.nn.conv import Conv, Dense
from segjax.nn.norm import Norm, NormSpec
from segjax.types import Dtype


class BoxHead(nn.Module):
    """`num_convs` 3x3 convolutions, `num_fcs` fully connected layers, two predictors.

    torchvision v1, Detectron2 and mmdet use two fully connected layers. torchvision v2 and
    Detectron2's LSJ models use four convolutions with norms and one fully connected layer.

    Attributes:
      num_classes: number of classes K, without background.
      num_convs: number of 3x3 convolutions before the fully connected layers.
      conv_features: number of channels of the convolutions.
      num_fcs: number of fully connected layers.
      fc_features: width of the fully connected layers.
      norm: normalisation after each convolution, which then has no bias; None for none.
      class_agnostic: True predicts one box per region, False one per class.
      dtype: compute dtype; outputs are float32.
    """

    num_classes: int
    num_convs: int = 0
    conv_features: int = 256
    num_fcs: int = 2
    fc_features: int = 1024
    norm: NormSpec | None = None
    class_agnostic: bool = False
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "N S S C"],
        train: bool = False,
        valid: Bool[Array, " N"] | None = None,
    ) -> tuple[Float[Array, "N K1"], Float[Array, "N Kb 4"]]:
        """Region features [N, S, S, C] -> logits [N, K + 1], deltas [N, K or 1, 4].

        The last logit is for background. `valid` is True for rows that enter the statistics of
        batch norm; None includes all.
        """
        for i in range(self.num_convs):
            conv = Conv(
                self.conv_features,
                3,
                use_bias=self.norm is None,
                dtype=self.dtype,
                name=f"conv{i + 1}",
            )
            x = conv(x)
            if self.norm is not None:
                x = Norm(self.norm, dtype=self.dtype, name=f"norm{i + 1}")(x, train, valid)
            x = nn.relu(x)
        x = x.reshape(x.shape[0], -1)  # [N, S * S * C]
        for i in range(self.num_fcs):
            x = nn.relu(Dense(self.fc_features, dtype=self.dtype, name=f"fc{i + 1}")(x))
        init = nn.initializers.normal
        logits = Dense(
            self.num_classes + 1, kernel_init=init(0.01), dtype=self.dtype, name="class_logits"
        )(x)
        boxes = 1 if self.class_agnostic else self.num_classes
        deltas = Dense(4 * boxes, kernel_init=init(0.001), dtype=self.dtype, name="box_deltas")(x)
        return logits.astype(jnp.float32), deltas.astype(jnp.float32).reshape(-1, boxes, 4)
