"""Optimizers, schedules, weight decay by kind of parameter, and parameters that stay frozen."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32

from segjax.config import OptimConfig

# From a step, int32 [], to a learning rate, float32 [].
Schedule = Callable[[Any], Array]


def learning_rate(config: OptimConfig, steps: int) -> Schedule:
    """Makes the learning rate as a function of the step.

    Warm-up multiplies the schedule, as in Detectron2's WarmupMultiStepLR and
    WarmupCosineLR and in mmdet's two schedulers; milestones and the cosine count from
    step 0, warm-up included.

    Args:
      config: heights, forms and milestones.
      steps: length of the run; where the cosine reaches zero.

    Returns:
      step int32[] -> learning rate float32[].
    """
    factor = {"step": _step_factor, "cosine": _cosine_factor, "constant": _constant_factor}
    after = factor[config.schedule]

    def schedule(step: Int32[Array, ""] | int) -> Float[Array, ""]:
        step = jnp.asarray(step, jnp.int32)
        return config.learning_rate * _warmup_factor(config, step) * after(config, steps, step)

    return schedule


def _warmup_factor(config: OptimConfig, step: Int32[Array, ""]) -> Float[Array, ""]:
    # mmengine's LinearLR counts total_iters = end - begin - 1.
    length = config.warmup_steps - (1 if config.warmup_form == "mmdet" else 0)
    part = jnp.clip(step / length, 0.0, 1.0) if length > 0 else jnp.float32(1.0)
    return jnp.asarray(config.warmup_start * (1 - part) + part, jnp.float32)


def _step_factor(config: OptimConfig, _: int, step: Int32[Array, ""]) -> Float[Array, ""]:
    passed = sum((step >= milestone).astype(jnp.int32) for milestone in config.milestones)
    return jnp.power(jnp.float32(config.gamma), passed)


def _cosine_factor(_: OptimConfig, steps: int, step: Int32[Array, ""]) -> Float[Array, ""]:
    return 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(step / steps, 0.0, 1.0)))


def _constant_factor(_: OptimConfig, __: int, ___: Int32[Array, ""]) -> Float[Array, ""]:
    return jnp.float32(1.0)


def make_optimizer(
    config: OptimConfig, steps: int, frozen_paths: Sequence[str] = ()
) -> optax.GradientTransformation:
    """Makes the optimizer; parameters under `frozen_paths` get no update, decay or memory.

    "sgd" is torch's: decay joins the gradient, momentum is added up without dampening,
    and the learning rate multiplies the sum (so that a change of it acts at once).

    Args:
      config: of the optimizer.
      steps: length of the run, for the schedule.
      frozen_paths: "/"-joined prefixes of parameter paths, such as "backbone/stem".

    Returns:
      An optax transformation over the whole parameter tree.
    """
    trained = _trained_optimizer(config, steps)
    if not frozen_paths:
        return trained
    transforms: dict[Hashable, optax.GradientTransformation] = {
        "trained": trained,
        "frozen": optax.set_to_zero(),
    }

    def labels(params: Any) -> Any:
        return jax.tree.map(
            lambda f: "frozen" if f else "trained", frozen_mask(params, frozen_paths)
        )

    return optax.partition(transforms, labels)


def _trained_optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    clip = (
        optax.identity()
        if config.clip_norm is None
        else optax.clip_by_global_norm(config.clip_norm)
    )
    rate = optax.scale_by_learning_rate(learning_rate(config, steps))
    decay = _add_decay(config)
    if config.name == "adamw":
        b1, b2 = config.betas
        return optax.chain(clip, optax.scale_by_adam(b1=b1, b2=b2), decay, rate)
    return optax.chain(clip, decay, optax.trace(decay=config.momentum), rate)


def _add_decay(config: OptimConfig) -> optax.GradientTransformation:
    """Adds `decay * parameter` to each update, with the decay of its kind."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        decays = weight_decays(config, params)
        return jax.tree.map(lambda u, p, d: u + d * p, updates, params, decays), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def weight_decays(config: OptimConfig, params: Any) -> Any:
    """The weight decay of every parameter, by its kind.

    Normalisation layers are known by their `scale`, which no other layer has: their `bias` is
    theirs too. Biases are named `bias`, or `..._bias` where a layer has several parameters.

    Args:
      config: decays of kernels, norms and biases.
      params: linen parameters; nested dicts.

    Returns:
      A tree of floats like `params`.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    norms = {path_name(path[:-1]) for path, _ in leaves if path_name(path[-1:]) == "scale"}

    def decay(path: Any, _: Any) -> float:
        kind = None
        if path_name(path[:-1]) in norms:
            kind = config.norm_decay
        elif path_name(path[-1:]) == "bias" or path_name(path[-1:]).endswith("_bias"):
            kind = config.bias_decay
        return config.weight_decay if kind is None else kind

    return jax.tree_util.tree_map_with_path(decay, params)


def frozen_mask(params: Any, frozen_paths: Sequence[str]) -> Any:
    """Tells which parameters lie under a frozen path.

    Args:
      params: linen parameters; nested dicts.
      frozen_paths: "/"-joined prefixes, matched by whole names.

    Returns:
      A tree of bools like `params`.

    Raises:
      ValueError: if no prefix matches any parameter.
    """
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    # A single one may match nothing: frozen norms have no parameters.
    if frozen_paths and not any(under_any(name, frozen_paths) for name in names):
        raise ValueError(
            f"frozen paths {list(frozen_paths)} match no parameter; the top-level names are"
            f" {sorted({name.split('/')[0] for name in names})}"
        )
    return jax.tree_util.tree_map_with_path(
        lambda path, _: under_any(path_name(path), frozen_paths), params
    )


def global_norm(tree: Any) -> Float[Array, ""]:
    """The Euclidean norm of all arrays of a tree together, in float32."""
    squares = [jnp.square(leaf.astype(jnp.float32)).sum() for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, jnp.float32(0)))


def path_name(path: Any) -> str:
    """A tree path as "backbone/layer1/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def under_any(name: str, prefixes: Sequence[str]) -> bool:
    """Tells whether a path lies under one of the prefixes, matched by whole names."""
    return any(name == p or name.startswith(p.rstrip("/") + "/") for p in prefixes)
