"""One training step, written for one device of any number."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Key, PRNGKeyArray

from segjax.train.optim import Schedule, frozen_mask
from segjax.train.state import TrainState
from segjax.types import Batch, LossTerm

Metrics = dict[str, Array]
Step = Callable[[TrainState, Batch, PRNGKeyArray, str | None], tuple[TrainState, Metrics]]


def make_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    frozen_paths: Sequence[str] = (),
) -> Step:
    """Makes the step of one device: losses, gradients, update.

    The loss is `sum_k psum(sum_k) / max(psum(count_k), 1)` over the model's loss terms,
    so that any number of devices computes that of the whole batch. Each image draws with
    its own key, made from the run's key, the step and the image's place in the global
    batch: the numbers do not depend on how the batch is split. This holds for frozen and
    group normalisation and for synchronised batch normalisation (`NormSpec("batch",
    axis_name="data")`); plain "batch" normalises each device's images by themselves, as
    torch's does, and its running statistics are averaged over the devices.

    A step whose loss or gradient is not finite changes nothing but the counter.

    Args:
      model: has a method `losses(batch, keys) -> (dict of LossTerm, dict of counts)`.
      optimizer: over the whole parameter tree.
      schedule: the learning rate, for the metrics.
      frozen_paths: prefixes of parameters whose gradient is not even computed.

    Returns:
      step(state, batch, key, axis_name) -> (state, metrics). `key` is the run's, the same
      at every step; `axis_name` is None on one device. Metrics are scalars, equal on every
      device: "loss", "loss/NAME", "grad_norm" (before clipping), "learning_rate",
      "finite" and the model's counts.
    """

    def step(
        state: TrainState, batch: Batch, key: PRNGKeyArray, axis_name: str | None
    ) -> tuple[TrainState, Metrics]:
        frozen = frozen_mask(state.params, frozen_paths)
        keys = image_keys(jax.random.fold_in(key, state.step), len(batch.images), axis_name)

        def loss_fn(params: Any) -> tuple[Array, tuple[Metrics, Any]]:
            params = jax.tree.map(lambda p, f: jax.lax.stop_gradient(p) if f else p, params, frozen)
            (terms, counts), updated = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                batch,
                keys,
                method="losses",
                mutable=["batch_stats"],
            )
            loss, metrics = reduce_losses(terms, axis_name)
            counts = {name: _psum(count, axis_name) for name, count in counts.items()}
            return loss, (metrics | counts, updated.get("batch_stats", {}))

        grads, (metrics, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
        with jax.named_scope("gradients"):
            grads = _psum(grads, axis_name)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(grad_norm)
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        updated = TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=_mean_changed(state.batch_stats, batch_stats, axis_name),
            opt_state=opt_state,
        )
        metrics |= {
            "grad_norm": grad_norm,
            "learning_rate": schedule(state.step),
            "finite": finite,
        }
        return _select(finite, updated, state), metrics

    return step


def image_keys(key: PRNGKeyArray, images: int, axis_name: str | None) -> Key[Array, "B"]:
    """One key for each image of this device, by its place in the global batch.

    Args:
      key: of the step; the same on every device.
      images: images on this device.
      axis_name: of the devices, each of which holds a run of consecutive images.

    Returns:
      Keys [images].
    """
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * images
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(images))


def reduce_losses(terms: dict[str, LossTerm], axis_name: str | None) -> tuple[Array, Metrics]:
    """Adds up loss terms over the devices.

    Args:
      terms: this device's sums and counts.
      axis_name: of the devices, or None.

    Returns:
      This device's part of the total loss (the parts' gradients add up to the total's),
      and the total's metrics "loss" and "loss/NAME", equal on every device.
    """
    # Counts are no function of the parameters, or only through decisions (which proposals
    # are positive): nothing is differentiated through the psum.
    counts = {
        name: jnp.maximum(_psum(jax.lax.stop_gradient(term.count), axis_name), 1.0)
        for name, term in terms.items()
    }
    parts = {name: term.sum / counts[name] for name, term in terms.items()}
    totals = {name: _psum(jax.lax.stop_gradient(part), axis_name) for name, part in parts.items()}
    metrics = {"loss": _total(totals)} | {f"loss/{name}": t for name, t in totals.items()}
    return _total(parts), metrics


def _total(terms: dict[str, Array]) -> Array:
    return functools.reduce(jnp.add, terms.values(), jnp.float32(0))


def _psum(tree: Any, axis_name: str | None) -> Any:
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def _mean_changed(before: Any, after: Any, axis_name: str | None) -> Any:
    """Averages running statistics over the devices, but not frozen ones.

    Those come back as the very arrays that went in: to send them round would cost time,
    and their mean over three devices would differ from them in the last bit.
    """
    if axis_name is None:
        return after
    return jax.tree.map(lambda b, a: a if a is b else jax.lax.pmean(a, axis_name), before, after)


def _select(finite: Bool[Array, ""], updated: TrainState, state: TrainState) -> TrainState:
    chosen = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state)
    return TrainState(updated.step, chosen.params, chosen.batch_stats, chosen.opt_state)
