"""The training step, written for a single device out of any number."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int32, Key, PRNGKeyArray

from segjax.protocols import Model
from segjax.train.optim import Schedule, frozen_mask
from segjax.train.state import TrainState
from segjax.types import Batch, LossTerm

Metrics = dict[str, Array]
Step = Callable[[TrainState, Batch, PRNGKeyArray, str | None], tuple[TrainState, Metrics]]

# Gradients, updated collections, losses and counts.
Pass = tuple[Any, dict[str, Any], Metrics, Metrics]

# Each purpose draws from its own stream of the run's seed.
INIT_STREAM, STEP_STREAM = 0, 1

# Linen's random streams that a model may draw from in training, by `self.make_rng(name)`.
RNG_STREAMS = ("dropout", "drop_path")
# Image indices start at 0 and stream ids here, so that the same key is never used twice.
_FIRST_STREAM = 1 << 31


def make_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    frozen_paths: Sequence[str] = (),
    accumulate: int = 1,
) -> Step:
    """Makes the per-device step: losses, gradients and update.

    The loss is `sum_k psum(sum_k) / max(psum(count_k), 1)` over the model's loss terms, so that
    any number of devices computes the loss of the whole batch. Each image has its own random key,
    derived from the run's key, the step and the image's index in the global batch. Results
    therefore do not depend on how the batch is split. This holds for frozen and group
    normalisation and for synchronised batch normalisation (`NormSpec("batch",
    axis_name="data")`). Plain "batch" normalises the images of each device separately, as in
    PyTorch, and averages its running statistics over the devices.

    It does not hold for the Linen streams in `RNG_STREAMS` either. A stream has one key for all
    images of a call, so that dropout and drop-path depend on the number of images per device and
    micro-batch. They are reproducible for the same split.

    With `accumulate` > 1, each device processes its images in that many equal parts, one after
    the other, and needs memory for one part only. The gradient is the mean over the parts, as in
    the usual PyTorch loop. Each part divides by its own counts. If these differ, as the number of
    sampled regions can, the loss is not exactly that of the undivided batch.

    A step with a non-finite loss or gradient changes nothing except the step counter.

    Args:
      model: model to train.
      optimizer: optimizer of the whole parameter tree.
      schedule: learning-rate schedule, for the metrics.
      frozen_paths: prefixes of parameters whose gradients are not computed.
      accumulate: number of micro-batches per step.

    Returns:
      step(state, batch, key, axis_name) -> (state, metrics). `key` is the key of the run and the
      same for every step; `axis_name` is None on one device. Metrics are scalars, equal on every
      device: "loss", "loss/NAME", "grad_norm" (before clipping), "learning_rate", "finite" and
      the model's counts.
    """

    def step(
        state: TrainState, batch: Batch, key: PRNGKeyArray, axis_name: str | None
    ) -> tuple[TrainState, Metrics]:
        # Keys only depend on the step, so that a resumed run draws the same numbers.
        key = jax.random.fold_in(key, state.step)
        backward = functools.partial(_backward, model, frozen_paths, axis_name, state.params, key)
        first = first_place(len(batch.images), axis_name)
        if accumulate == 1:
            grads, collections, losses, counts = backward(state.collections, batch, first)
        else:
            grads, collections, losses, counts = _accumulated(
                backward, accumulate, state.params, state.collections, batch, first
            )
        with jax.named_scope("gradients"):
            grads = _psum(grads, axis_name)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(losses["loss"]) & jnp.isfinite(grad_norm)
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        updated = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            collections=collections,
            opt_state=opt_state,
        )
        of_step = {"grad_norm": grad_norm, "learning_rate": schedule(state.step), "finite": finite}
        return _select(finite, updated, state), losses | counts | of_step

    return step


def run_key(seed: int) -> PRNGKeyArray:
    """Returns the key that every step of a run folds its number into.

    Args:
      seed: seed of the run.
    """
    return jax.random.fold_in(jax.random.key(seed), STEP_STREAM)


def losses_and_gradients(
    model: Model, frozen_paths: Sequence[str] = ()
) -> Callable[[Any, Batch, PRNGKeyArray, int], tuple[Metrics, Any]]:
    """Makes a function that takes a step up to its gradients, on one device.

    Args:
      model: to train.
      frozen_paths: prefixes of parameters whose gradient is not computed.

    Returns:
      take(variables, batch, key, first) -> (loss terms and "grad_norm", gradients). `key` is that
      of the step; `first` the place of the first image in the global batch.
    """

    @jax.jit
    def take(
        variables: Any, batch: Batch, key: PRNGKeyArray, first: Int32[Array, ""] | int
    ) -> tuple[Metrics, Any]:
        collections = {name: tree for name, tree in variables.items() if name != "params"}
        grads, _, losses, _ = _backward(
            model, frozen_paths, None, variables["params"], key, collections, batch, first
        )
        return losses | {"grad_norm": optax.tree.norm(grads)}, grads

    return take


def _backward(
    model: Model,
    frozen_paths: Sequence[str],
    axis_name: str | None,
    params: Any,
    key: PRNGKeyArray,
    collections: dict[str, Any],
    batch: Batch,
    first: Int32[Array, ""] | int,
) -> Pass:
    """Runs forward and backward passes; the gradients are this device's share of the total."""
    frozen = frozen_mask(params, frozen_paths)
    keys, rngs = image_keys(key, len(batch.images), first), stream_keys(key, first)

    def loss_fn(params: Any) -> tuple[Array, tuple[Metrics, Metrics, dict[str, Any]]]:
        # Lets XLA drop the backward pass through layers where everything is frozen.
        params = jax.tree.map(lambda p, f: jax.lax.stop_gradient(p) if f else p, params, frozen)
        (terms, counts), updated = model.apply(
            {"params": params, **collections},
            batch,
            keys,
            method="losses",
            mutable=list(collections),
            rngs=rngs,
        )
        loss, losses = reduce_losses(terms, axis_name)
        counts = {name: _psum(count, axis_name) for name, count in counts.items()}
        after = {name: updated.get(name, before) for name, before in collections.items()}
        return loss, (losses, counts, after)

    grads, (losses, counts, after) = jax.grad(loss_fn, has_aux=True)(params)
    return grads, _mean_changed(collections, after, axis_name), losses, counts


def _accumulated(
    backward: Callable[[dict[str, Any], Batch, Array], Pass],
    number: int,
    params: Any,
    collections: dict[str, Any],
    batch: Batch,
    first: Int32[Array, ""] | int,
) -> Pass:
    """Runs a device's images in equal parts; averages gradients and losses, and sums counts."""
    images = len(batch.images) // number
    parts = jax.tree.map(lambda x: x.reshape(number, images, *x.shape[1:]), batch)

    def add(carry: tuple[Any, Any], part: tuple[Batch, Array]) -> tuple[Any, tuple[Any, Any]]:
        total, before = carry
        grads, after, losses, counts = backward(before, *part)
        return (jax.tree.map(jnp.add, total, grads), after), (losses, counts)

    # With scan, only one part is compiled, and all parts use the same memory.
    start = (jax.tree.map(jnp.zeros_like, params), collections)
    (total, after), (losses, counts) = jax.lax.scan(
        add, start, (parts, first + images * jnp.arange(number))
    )
    grads = jax.tree.map(lambda g: g / number, total)
    means = {name: values.mean() for name, values in losses.items()}
    return grads, after, means, {name: values.sum() for name, values in counts.items()}


def first_place(images: int, axis_name: str | None) -> Int32[Array, ""] | int:
    """Returns the index in the global batch of this device's first image.

    Args:
      images: number of images on each device.
      axis_name: name of the mesh axis, over which each device has a run of consecutive images;
        None for one device.
    """
    return 0 if axis_name is None else jax.lax.axis_index(axis_name) * images


def image_keys(
    key: PRNGKeyArray, images: int, first: Int32[Array, ""] | int = 0
) -> Key[Array, "B"]:
    """Derives one key per image from its index in the global batch.

    Args:
      key: key of the step; the same on every device.
      images: number of images.
      first: index of the first image in the global batch.

    Returns:
      Keys [images].
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(images))


def stream_keys(key: PRNGKeyArray, first: Int32[Array, ""] | int) -> dict[str, PRNGKeyArray]:
    """Derives a key for each of the Linen streams.

    Args:
      key: key of the step; the same on every device.
      first: index in the global batch of the first image of the call, so that devices and
        micro-batches get different random numbers.

    Returns:
      Keys by stream name, for all names in `RNG_STREAMS`.
    """
    streams = {name: _FIRST_STREAM + index for index, name in enumerate(RNG_STREAMS)}
    return {
        name: jax.random.fold_in(jax.random.fold_in(key, place), first)
        for name, place in streams.items()
    }


def reduce_losses(terms: dict[str, LossTerm], axis_name: str | None) -> tuple[Array, Metrics]:
    """Reduces loss terms over the devices.

    Args:
      terms: sums and counts of this device.
      axis_name: name of the mesh axis, or None for one device.

    Returns:
      This device's share of the total loss, and the metrics "loss" and "loss/NAME" of the total,
      equal on every device. Gradients of the shares add up to the gradient of the total.
    """
    # Counts depend on the parameters only through discrete decisions, such as which proposals are
    # positive, so that no gradient has to flow through the psum. They can be zero.
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
    """Averages running statistics over the devices, except for frozen ones and integers.

    Unchanged statistics are the same arrays before and after. Averaging them would cost an
    all-reduce, and the mean over three devices could differ in the last bit.
    """
    if axis_name is None:
        return after

    def mean(old: Array, new: Array) -> Array:
        same = new is old or not jnp.issubdtype(new.dtype, jnp.inexact)
        return new if same else jax.lax.pmean(new, axis_name)

    return jax.tree.map(mean, before, after)


def _select(finite: Bool[Array, ""], updated: TrainState, state: TrainState) -> TrainState:
    # Selects per array instead of branching with lax.cond, and always advances the counter.
    chosen = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state)
    return dataclasses.replace(chosen, step=updated.step)
