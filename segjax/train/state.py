"""What a run carries from step to step."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int32, PRNGKeyArray

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


def init_variables(model: nn.Module, key: PRNGKeyArray) -> dict[str, Any]:
    """Draws parameters, on one small image: no shape depends on the image's.

    Args:
      model: a detector; called with images uint8 [1, S, S, 3] and image_sizes int32 [1, 2].
      key: random key.

    Returns:
      {"params", "batch_stats"}; the latter empty for a model without any.
    """
    side = 2 * int(getattr(model, "size_divisor", 32))
    images = jnp.zeros((1, side, side, 3), jnp.uint8)
    sizes = jnp.full((1, 2), side, jnp.int32)
    variables = dict(jax.jit(model.init)(key, images, sizes))
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def init_state(variables: dict[str, Any], optimizer: optax.GradientTransformation) -> TrainState:
    """Makes the state at step 0 from a model's variables."""
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(params),
    )


def differing_shapes(wanted: Any, given: Any) -> list[str]:
    """Describes, a line each, the arrays that two trees do not have in common by name and shape."""
    ours, theirs = (
        {
            jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (wanted, given)
    )
    return [
        f"{name} is {theirs.get(name, 'missing')}, wanted {ours.get(name, 'no such array')}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
