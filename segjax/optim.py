"""Optimizers, schedules and rules for single parameters, as values that a config holds.

    OptimConfig(
        optimizer=AdamW(b2=0.99),
        learning_rate=1e-4,
        schedule=Cosine(),
        warmup=Warmup(steps=1000),
        rules=(ParamRule("pos_embed|rel_pos", decay=0.0), LayerDecay(0.75)),
    )

`segjax.train.optim` makes an optax transformation of them.
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

    Weight decay joins the gradient, momentum adds up without dampening, and the learning rate
    multiplies the sum, so that a change of it acts at once.

    Attributes:
      momentum: factor of the sum of earlier gradients at each step.
    """

    momentum: float = 0.9

    def make(self, decay: optax.GradientTransformation) -> optax.GradientTransformation:
        """Makes the direction of a step, before the learning rate.

        Args:
          decay: adds the decayed parameters to what it is given.
        """
        return optax.chain(decay, optax.trace(decay=self.momentum))


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay, as in `optax.adamw` (arXiv:1711.05101).

    Attributes:
      b1: decay of the mean of gradients.
      b2: decay of the mean of squared gradients.
      eps: added to the root of the latter.
    """

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def make(self, decay: optax.GradientTransformation) -> optax.GradientTransformation:
        """Makes the direction of a step, before the learning rate.

        Args:
          decay: adds the decayed parameters to what it is given.
        """
        return optax.chain(optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps), decay)


@dataclasses.dataclass(frozen=True)
class Steps:
    """A learning rate that falls at milestones, counted from step 0, warm-up included.

    Attributes:
      milestones: steps from which on the learning rate is multiplied by `gamma` once more.
      gamma: factor at each milestone.
    """

    milestones: tuple[int, ...] = ()
    gamma: float = 0.1

    def factor(self, step: Int32[Array, ""], steps: int) -> Float[Array, ""]:
        """The factor of the learning rate at a step; the run's length has no part in it."""
        falls = optax.piecewise_constant_schedule(1.0, dict.fromkeys(self.milestones, self.gamma))
        return jnp.asarray(falls(step), jnp.float32)


@dataclasses.dataclass(frozen=True)
class Cosine:
    """A learning rate that follows half a cosine to zero at the run's last step."""

    def factor(self, step: Int32[Array, ""], steps: int) -> Float[Array, ""]:
        """The factor of the learning rate at a step of a run of `steps`."""
        # Not optax's: it multiplies by pi before it divides, and differs in the last bit.
        return 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(step / steps, 0.0, 1.0)))


@dataclasses.dataclass(frozen=True)
class Constant:
    """A learning rate that stays as it is after warm-up."""

    def factor(self, step: Int32[Array, ""], steps: int) -> Float[Array, ""]:
        """One, at every step."""
        return jnp.float32(1.0)


@dataclasses.dataclass(frozen=True)
class Warmup:
    """A linear rise of the learning rate at the start of a run.

    It multiplies the schedule, as in Detectron2's WarmupMultiStepLR and WarmupCosineLR and in
    mmdet's two schedulers. `optax.join_schedules` would shift the schedule by its length.

    Attributes:
      steps: length of the rise; 0 for none.
      start: factor of the learning rate at step 0.
      form: "detectron2" (also torchvision, mmdet 2) reaches full height at step `steps`;
        "mmdet" (mmdet 3: mmengine's LinearLR) one step earlier.
    """

    steps: int = 0
    start: float = 0.001
    form: Literal["detectron2", "mmdet"] = "detectron2"

    def factor(self, step: Int32[Array, ""]) -> Float[Array, ""]:
        """The factor of the learning rate at a step."""
        # mmengine's LinearLR counts total_iters = end - begin - 1.
        length = self.steps - (1 if self.form == "mmdet" else 0)
        part = jnp.clip(step / length, 0.0, 1.0) if length > 0 else jnp.float32(1.0)
        return jnp.asarray(self.start * (1 - part) + part, jnp.float32)


@dataclasses.dataclass(frozen=True)
class ParamRule:
    """Weight decay and learning rate of the parameters whose paths match a pattern.

    Attributes:
      pattern: regular expression that is searched in "/"-joined paths, such as
        "backbone/layer1_0/conv1/kernel"; "norm|pos_embed", "^rpn_head/", "/bias$".
      decay: weight decay of these parameters; None leaves that of their kind.
      lr: factor of their learning rate.
    """

    pattern: str
    decay: float | None = None
    lr: float = 1.0

    def __post_init__(self) -> None:
        """Refuses patterns that are not regular expressions."""
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(
                f"the pattern {self.pattern!r} of a rule is not a regular expression: {error}"
            ) from error

    def matches(self, path: str) -> bool:
        """Tells whether a "/"-joined path contains the pattern."""
        return re.search(self.pattern, path) is not None


@dataclasses.dataclass(frozen=True)
class LayerDecay:
    """Learning rates that fall from the heads down to the stem, layer by layer.

    The factor of layer l of a backbone of L layers is `decay ** (L - l)`. The stem is layer 0 and
    one of the L; parameters outside the backbone keep their learning rate. As in BEiT
    (arXiv:2106.08254) and Detectron2's `get_vit_lr_decay_rate`.

    Attributes:
      decay: ratio of the learning rates of two neighbouring layers.
    """

    decay: float = 0.75

    def factor(self, layer: int, num_layers: int) -> float:
        """The factor of the learning rate of a layer.

        Args:
          layer: 0 for the stem, then one more for each layer above it.
          num_layers: number of the backbone's layers, the stem among them.

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
