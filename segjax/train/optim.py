"""Builds the Optax optimizer of a config, with per-parameter rules and frozen parameters."""

import difflib
import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32

from segjax.config import OptimConfig
from segjax.optim import LayerDecay, ParamRule, Rule
from segjax.protocols import Model, layer_of

# Maps a step, int32 [], to a learning rate, float32 [].
Schedule = Callable[[Any], Array]
# Maps a parameter's "/"-joined path to its layer; None for parameters outside the backbone.
LayerOf = Callable[[str], int | None]


def learning_rate(config: OptimConfig, steps: int) -> Schedule:
    """Returns the learning-rate schedule, warmup included.

    Args:
      config: peak learning rate, schedule and warmup.
      steps: length of the run; the cosine schedule reaches zero there.

    Returns:
      step int32[] -> learning rate float32[].
    """

    def schedule(step: Int32[Array, ""] | int) -> Float[Array, ""]:
        step = jnp.asarray(step, jnp.int32)
        after = config.schedule.factor(step, steps)
        return config.learning_rate * config.warmup.factor(step) * after

    return schedule


def make_optimizer(
    config: OptimConfig,
    steps: int,
    frozen_paths: Sequence[str] = (),
    layer_of: LayerOf | None = None,
    num_layers: int = 0,
) -> optax.GradientTransformation:
    """Makes the optimizer of a config.

    Parameters under `frozen_paths` get no updates, no weight decay and no optimizer state. The
    optimizer's `init` raises a `ValueError` for a rule that applies to no parameter.

    Args:
      config: settings of the optimizer.
      steps: length of the run, for the schedule.
      frozen_paths: "/"-joined prefixes of parameter paths, such as "backbone/stem".
      layer_of: function from a parameter's full "/"-joined path to its layer, 0 for the stem, or
        None for heads. `LayerDecay` needs it. `backbone_layers` returns it and `num_layers`.
      num_layers: number of layers, including the stem.

    Returns:
      An Optax transformation of the whole parameter tree.

    Raises:
      ValueError: if `config` has a `LayerDecay`, but `layer_of` is None.
    """
    if layer_of is None and any(isinstance(rule, LayerDecay) for rule in config.rules):
        raise ValueError(
            "LayerDecay needs the layer of every parameter, but the model's backbone has no"
            " layer_of(path) and num_layers: give it both, or leave the rule out of optim.rules"
        )
    optimizer = _trained_optimizer(config, steps, layer_of, num_layers)
    if frozen_paths:
        transforms: dict[Hashable, optax.GradientTransformation] = {
            "trained": optimizer,
            "frozen": optax.set_to_zero(),
        }
        optimizer = optax.partition(transforms, functools.partial(_labels, frozen_paths))
    return _with_checked_rules(optimizer, config.rules)


def _trained_optimizer(
    config: OptimConfig, steps: int, layer_of: LayerOf | None, num_layers: int
) -> optax.GradientTransformation:
    clip = (
        optax.identity()
        if config.clip_norm is None
        else optax.clip_by_global_norm(config.clip_norm)
    )

    def decayed(updates: Any, params: Any) -> Any:
        decays = weight_decays(config, params)
        return jax.tree.map(lambda u, p, d: u + d * p, updates, params, decays)

    def rated(updates: Any, params: Any) -> Any:
        # Factors are Python floats: for 1.0 the compiled step contains no multiplication.
        factors = rate_factors(config, params, layer_of, num_layers)
        return jax.tree.map(lambda u, f: u if f == 1.0 else u * f, updates, factors)

    # Learning-rate factors come after weight decay and scale it as well, like the learning rates
    # of PyTorch's parameter groups.
    return optax.chain(
        clip,
        config.optimizer.make(optax.stateless(decayed)),
        optax.stateless(rated),
        optax.scale_by_learning_rate(learning_rate(config, steps)),
    )


def _labels(frozen_paths: Sequence[str], params: Any) -> Any:
    mask = frozen_mask(params, frozen_paths)
    return jax.tree.map(lambda frozen: "frozen" if frozen else "trained", mask)


def _with_checked_rules(
    optimizer: optax.GradientTransformation, rules: Sequence[Rule]
) -> optax.GradientTransformation:
    """Makes `init` check the rules on the full tree; the inner optimizer only sees part of it."""

    def init(params: Any) -> Any:
        check_rules(rules, _names(params))
        return optimizer.init(params)

    return optimizer._replace(init=init)


def check_rules(rules: Sequence[Rule], names: Sequence[str]) -> None:
    """Checks that every `ParamRule` applies to at least one parameter.

    Args:
      rules: rules of a config.
      names: "/"-joined paths of all parameters, including frozen ones.

    Raises:
      ValueError: if a rule matches no parameter, in which case the message lists the paths most
        similar to its pattern, or only parameters that an earlier rule already covers.
    """
    held = {_rule_of(name, rules) for name in names}
    for rule in rules:
        if isinstance(rule, LayerDecay) or rule in held:
            continue
        if any(rule.matches(name) for name in names):
            raise ValueError(
                f"the rule {rule.pattern!r} holds for no parameter: for all that it matches, an"
                " earlier rule does; put it in front, or leave it out"
            )
        raise ValueError(
            f"the rule {rule.pattern!r} matches no parameter; the nearest are"
            f" {', '.join(_nearest(rule.pattern, names))}"
        )


def _nearest(pattern: str, names: Sequence[str], number: int = 3) -> list[str]:
    def likeness(name: str) -> float:
        parts = (name, *name.split("/"))
        return max(difflib.SequenceMatcher(None, pattern, part).ratio() for part in parts)

    return sorted(names, key=likeness, reverse=True)[:number]


def _rule_of(name: str, rules: Sequence[Rule]) -> ParamRule | None:
    """Returns the first rule that matches a parameter's path; None if there is none."""
    return next((r for r in rules if isinstance(r, ParamRule) and r.matches(name)), None)


def rate_factors(
    config: OptimConfig, params: Any, layer_of: LayerOf | None = None, num_layers: int = 0
) -> Any:
    """Computes the learning-rate factor of every parameter, from its rule and its layer.

    Args:
      config: settings with the rules.
      params: linen parameters; nested dicts.
      layer_of: as for `make_optimizer`.
      num_layers: as for `make_optimizer`.

    Returns:
      A tree of floats like `params`.
    """
    layered = next((rule for rule in config.rules if isinstance(rule, LayerDecay)), None)

    def factor(path: Any, _: Any) -> float:
        name = path_name(path)
        rule = _rule_of(name, config.rules)
        own = 1.0 if rule is None else rule.lr
        layer = None if layered is None or layer_of is None else layer_of(name)
        return own if layered is None or layer is None else own * layered.factor(layer, num_layers)

    return jax.tree_util.tree_map_with_path(factor, params)


def backbone_layers(model: Model) -> tuple[LayerOf | None, int]:
    """Returns `layer_of` and `num_layers` of a model's backbone, as for `make_optimizer`.

    Args:
      model: model with or without a backbone.

    Returns:
      A function from a parameter's full path in the model to its layer (None outside the
      backbone), and the number of layers. (None, 0) for a model without a backbone.
    """
    if model.backbone is None:
        return None, 0
    return functools.partial(layer_of, model), model.backbone.num_layers


def weight_decays(config: OptimConfig, params: Any) -> Any:
    """Returns the weight decay of every parameter, from its rule or else from its kind.

    Only normalisation layers have a `scale`; all parameters next to one get their decay. Biases
    are named `bias`, or `..._bias` in layers with several parameters.

    Args:
      config: rules, and the weight decays of kernels, norms and biases.
      params: linen parameters; nested dicts.

    Returns:
      A tree of floats like `params`.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    norms = {path_name(path[:-1]) for path, _ in leaves if path_name(path[-1:]) == "scale"}

    def decay(path: Any, _: Any) -> float:
        rule, kind = _rule_of(path_name(path), config.rules), None
        if rule is not None and rule.decay is not None:
            return rule.decay
        if path_name(path[:-1]) in norms:
            kind = config.norm_decay
        elif path_name(path[-1:]) == "bias" or path_name(path[-1:]).endswith("_bias"):
            kind = config.bias_decay
        return config.weight_decay if kind is None else kind

    return jax.tree_util.tree_map_with_path(decay, params)


def frozen_mask(params: Any, frozen_paths: Sequence[str]) -> Any:
    """Marks the parameters under a frozen path.

    Args:
      params: linen parameters; nested dicts.
      frozen_paths: "/"-joined prefixes; only whole path components match.

    Returns:
      A tree of bools like `params`.

    Raises:
      ValueError: if no prefix matches any parameter.
    """
    names = _names(params)
    # Individual prefixes may match nothing, as frozen norms have no parameters.
    if frozen_paths and not any(under_any(name, frozen_paths) for name in names):
        raise ValueError(
            f"frozen paths {list(frozen_paths)} match no parameter; the top-level names are"
            f" {sorted({name.split('/')[0] for name in names})}"
        )
    return jax.tree_util.tree_map_with_path(
        lambda path, _: under_any(path_name(path), frozen_paths), params
    )


def _names(params: Any) -> list[str]:
    return [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]


def path_name(path: Any) -> str:
    """Formats a tree path, such as "backbone/layer1/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def under_any(name: str, prefixes: Sequence[str]) -> bool:
    """Returns True if a path is under one of the prefixes; only whole components match."""
    return any(name == p or name.startswith(p.rstrip("/") + "/") for p in prefixes)
