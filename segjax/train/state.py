"""What a run carries from step to step."""

from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int32

from segjax.types import struct


@struct
class TrainState:
    """The state of training; donated to each step.

    Attributes:
      step: how many steps have been taken.
      params: float32 parameters; nested dicts.
      batch_stats: running or frozen statistics of normalisation; nested dicts.
      opt_state: the optimizer's.
    """

    step: Int32[Array, ""]
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_state(variables: dict[str, Any], optimizer: optax.GradientTransformation) -> TrainState:
    """Makes the state at step 0 from a model's variables."""
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(params),
    )
