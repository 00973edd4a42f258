"""Training state that is carried from step to step."""

from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int32

from segjax.types import struct


@struct
class TrainState:
    """The training state, which is donated to each step.

    Attributes:
      step: number of steps taken.
      params: float32 parameters; nested dicts.
      collections: Linen's other collections by name, such as {"batch_stats": ...}; empty for a
        model without any.
      opt_state: state of the optimizer.
      ema: moving average of the parameters, a tree like `params`, or None. The step does not
        update it.
    """

    step: Int32[Array, ""]
    params: Any
    collections: dict[str, Any]
    opt_state: Any
    ema: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """Variables in training, in the format of `model.apply`."""
        return {"params": self.params, **self.collections}

    def for_eval(self) -> dict[str, Any]:
        """Returns the variables for evaluation and prediction: averaged parameters if any."""
        return {**self.variables, "params": self.params if self.ema is None else self.ema}


def init_state(variables: dict[str, Any], optimizer: optax.GradientTransformation) -> TrainState:
    """Makes the state at step 0 from a model's variables.

    Args:
      variables: {"params"} and any other collections, by name.
      optimizer: optimizer of the whole parameter tree.
    """
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        collections={name: tree for name, tree in variables.items() if name != "params"},
        opt_state=optimizer.init(params),
    )
