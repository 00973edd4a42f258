"""Mask head of Mask R-CNN (1703.06870)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from segjax.nn.conv import Conv, Deconv2x2, pointwise
from segjax.nn.norm import Norm, NormSpec
from segjax.types import Dtype


class MaskHead(nn.Module):
    """`num_convs` 3x3 convolutions, a 2x2 deconvolution, and a 1x1 predictor.

    Attributes:
      num_classes: number K of classes, and of masks per region.
      num_convs: number of 3x3 convolutions.
      features: number of channels of all convolutions.
      norm: normalisation after each 3x3 convolution, which then has no bias; None for none.
      dtype: compute dtype; outputs are float32.
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
          classes: class 0..K-1 of each region, to compute only its logits, at 1/K of the cost of
            the predictor; None for all classes.
          train: lets batch norm use batch statistics.
          valid: True for rows that enter batch statistics; None for all.

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
        """Applies the 3x3 convolutions only; a cascade passes the result to its next mask head."""
        for i, conv in enumerate(self.convs):
            x = conv(x)
            if self.norms:
                x = self.norms[i](x, train, valid)
            x = nn.relu(x)
        return x

    def logits(
        self, x: Float[Array, "N S S F"], classes: Int32[Array, " N"] | None = None
    ) -> Float[Array, "N M M *K"]:
        """Predicts mask logits from the output of `trunk`, as in `__call__`."""
        x = nn.relu(self.deconv(x))  # [N, M, M, F]
        kernel = self.kernel[0, 0].astype(self.dtype)
        bias = self.bias.astype(self.dtype)
        if classes is None:
            logits = pointwise(x, kernel) + bias[None, None, None]
        else:
            own = jnp.take(kernel, classes, axis=1).T  # [N, F]
            logits = jnp.einsum("nyxf,nf->nyx", x, own) + jnp.take(bias, classes)[:, None, None]
        return logits.astype(jnp.float32)
