"""The mask head of Mask R-CNN (1703.06870)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from segjax.nn.conv import Conv, Deconv2x2, pointwise
from segjax.nn.norm import Norm, NormSpec
from segjax.types import Dtype


class MaskHead(nn.Module):
    """`num_convs` 3x3 convolutions, a 2x2 deconvolution, a 1x1 predictor.

    Attributes:
      num_classes: K masks per region.
      num_convs: 3x3 convolutions.
      features: channels throughout.
      norm: normalisation after each convolution (then without bias), or None.
      dtype: dtype of the computation; outputs are float32.
    """

    num_classes: int
    num_convs: int = 4
    features: int = 256
    norm: NormSpec | None = None
    dtype: Dtype = "float32"

    def setup(self) -> None:
        """Creates the layers."""
        self.convs = [
            Conv(
                self.features, 3, use_bias=self.norm is None, dtype=self.dtype, name=f"conv{i + 1}"
            )
            for i in range(self.num_convs)
        ]
        self.norms = (
            []
            if self.norm is None
            else [
                Norm(self.norm, dtype=self.dtype, name=f"norm{i + 1}")
                for i in range(self.num_convs)
            ]
        )
        self.deconv = Deconv2x2(self.features, dtype=self.dtype)
        shape = (1, 1, self.features, self.num_classes)
        self.kernel = self.param("logits_kernel", nn.initializers.normal(0.001), shape)
        self.bias = self.param("logits_bias", nn.initializers.zeros, (self.num_classes,))

    def __call__(
        self,
        x: Float[Array, "N S S C"],
        classes: Int32[Array, " N"] | None = None,
        train: bool = False,
        valid: Bool[Array, " N"] | None = None,
    ) -> Float[Array, "N M M *K"]:
        """Region features [N, S, S, C] -> mask logits of side M = 2 S.

        Args:
          x: region features.
          classes: a class 0..K-1 for each region: only that class's logits are
            computed, which saves all but 1/K of the predictor; None for all.
          train: lets batch norm use batch statistics.
          valid: rows that enter these; None for all.

        Returns:
          [N, M, M] for given classes, [N, M, M, K] for all, float32.
        """
        return self.logits(self.trunk(x, train, valid), classes)

    def trunk(
        self,
        x: Float[Array, "N S S C"],
        train: bool = False,
        valid: Bool[Array, " N"] | None = None,
    ) -> Float[Array, "N S S F"]:
        """The 3x3 convolutions alone: what a cascade hands to its next mask head."""
        for i, conv in enumerate(self.convs):
            x = conv(x)
            if self.norms:
                x = self.norms[i](x, train, valid)
            x = nn.relu(x)
        return x

    def logits(
        self, x: Float[Array, "N S S F"], classes: Int32[Array, " N"] | None = None
    ) -> Float[Array, "N M M *K"]:
        """Mask logits from the output of `trunk`, as in `__call__`."""
        x = nn.relu(self.deconv(x))  # [N, M, M, F]
        kernel = self.kernel[0, 0].astype(self.dtype)
        bias = self.bias.astype(self.dtype)
        if classes is None:
            logits = pointwise(x, kernel) + bias[None, None, None]
        else:
            own = jnp.take(kernel, classes, axis=1).T  # [N, F]
            logits = jnp.einsum("nyxf,nf->nyx", x, own) + jnp.take(bias, classes)[:, None, None]
        return logits.astype(jnp.float32)
