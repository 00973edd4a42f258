"""Config values for optimizers, learning-rate schedules, and rules for individual parameters.

    OptimConfig(
        optimizer=AdamW(b2=0.99),
        learning_rate=1e-4,
        schedule=Cosine(),
        warmup=Warmup(steps=1000),
        rules=(ParamRule("pos_embed|rel_pos", decay=0.0), LayerDecay(0.75)),
    )

`segjax.train.optim` converts them to an Optax transformation.
"""

import dataclasses
import re
from typing import Literal

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32


@dataclasses.dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum, as in `torch.optim.SGD`.

    Weight decay is added to the gradient, momentum has no dampening, and the learning rate is
    applied after momentum, so that changes of it take effect immediately.

    Attributes:
      momentum: decay factor of the accumulated gradients.
    """

    momentum: float = 0.9

    def make(self, decay: optax.GradientTransformation) -> optax.GradientTransformation:
        """Makes the transformation from gradients to updates, without the learning rate.

        Args:
          decay: transformation that adds weight decay to its input.
        """
        return optax.chain(decay, optax.trace(decay=self.momentum))


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay, as in `optax.adamw` (arXiv:1711.05101).

    Attributes:
      b1: decay rate of the running mean of gradients.
      b2: decay rate of the running mean of squared gradients.
      eps: constant added to the square root of the second moment.
    """

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def make(self, decay: optax.GradientTransformation) -> optax.GradientTransformation:
        """Makes the transformation from gradients to updates, without the learning rate.

        Args:
          decay: transformation that adds weight decay to its input.
        """
        return optax.chain(optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps), decay)


@dataclasses.dataclass(frozen=True)
class Steps:
    """Step-wise decay of the learning rate.

    Attributes:
      milestones: steps, counted from the start of the run, at which the learning rate is
        multiplied by `gamma`.
      gamma: factor at each milestone.
    """

    milestones: tuple[int, ...] = ()
    gamma: float = 0.1

    def factor(self, step: Int32[Array, ""], steps: int) -> Float[Array, ""]:
        """Returns the learning-rate factor at a step; `steps` is not used."""
        falls = optax.piecewise_constant_schedule(1.0, dict.fromkeys(self.milestones, self.gamma))
        return jnp.asarray(falls(step), jnp.float32)


@dataclasses.dataclass(frozen=True)
class Cosine:
    """Cosine decay of the learning rate to zero at the end of the run."""

    def factor(self, step: Int32[Array, ""], steps: int) -> Float[Array, ""]:
        """Returns the learning-rate factor at a step of a run with `steps` steps."""
        # Optax's schedule multiplies by pi before it divides, and differs in the last bit.
        return 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(step / steps, 0.0, 1.0)))


@dataclasses.dataclass(frozen=True)
class Constant:
    """Constant learning rate after warm-up."""

    def factor(self, step: Int32[Array, ""], steps: int) -> Float[Array, ""]:
        """Returns 1 for every step."""
        return jnp.float32(1.0)


@dataclasses.dataclass(frozen=True)
class Warmup:
    """Linear warm-up of the learning rate at the start of a run.

    The warm-up is multiplied with the schedule, as in Detectron2's WarmupMultiStepLR and
    WarmupCosineLR and with mmdet's two schedulers. `optax.join_schedules` would instead shift the
    schedule by the length of the warm-up.

    Attributes:
      steps: length of the warm-up; 0 for none.
      start: learning-rate factor at step 0.
      form: "detectron2" (also torchvision, mmdet 2) reaches the full learning rate at step
        `steps`, "mmdet" (mmdet 3: mmengine's LinearLR) one step earlier.
    """

    steps: int = 0
    start: float = 0.001
    form: Literal["detectron2", "mmdet"] = "detectron2"

    def factor(self, step: Int32[Array, ""]) -> Float[Array, ""]:
        """Returns the learning-rate factor at a step."""
        # mmengine's LinearLR counts total_iters = end - begin - 1.
        length = self.steps - (1 if self.form == "mmdet" else 0)
        part = jnp.clip(step / length, 0.0, 1.0) if length > 0 else jnp.float32(1.0)
        return jnp.asarray(self.start * (1 - part) + part, jnp.float32)


@dataclasses.dataclass(frozen=True)
class ParamRule:
    """Weight decay and learning rate of parameters whose paths match a pattern.

    Attributes:
      pattern: regular expression to search in "/"-joined paths, such as
        "backbone/layer1_0/conv1/kernel". Examples: "norm|pos_embed", "^rpn_head/", "/bias$".
      decay: weight decay of these parameters; None to use the default of their kind.
      lr: learning-rate factor of these parameters.
    """

    pattern: str
    decay: float | None = None
    lr: float = 1.0

    def __post_init__(self) -> None:
        """Rejects patterns that are not regular expressions."""
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(
                f"the pattern {self.pattern!r} of a rule is not a regular expression: {error}"
            ) from error

    def matches(self, path: str) -> bool:
        """Returns True if the pattern occurs in a "/"-joined path."""
        return re.search(self.pattern, path) is not None


@dataclasses.dataclass(frozen=True)
class LayerDecay:
    """Layer-wise decay of the learning rate, from the heads down to the stem.

    For a backbone with L layers, including the stem as layer 0, the factor of layer l is
    `decay ** (L - l)`. Parameters outside the backbone keep their learning rate. This follows BEiT
    (arXiv:2106.08254) and Detectron2's `get_vit_lr_decay_rate`.

    Attributes:
      decay: ratio of the learning rates of successive layers.
    """

    decay: float = 0.75

    def factor(self, layer: int, num_layers: int) -> float:
        """Returns the learning-rate factor of a layer.

        Args:
          layer: index of the layer, 0 for the stem.
          num_layers: number of layers of the backbone, including the stem.

        Raises:
          ValueError: if there is no such layer.
        """
        last = num_layers - 1
        if not 0 <= layer <= last:
            raise ValueError(f"a parameter is of layer {layer}; the backbone has 0 to {last}")
        return self.decay ** (num_layers - layer)


Optimizer = SGD | AdamW
Schedule = Steps | Cosine | Constant
Rule = ParamRule | LayerDecay
