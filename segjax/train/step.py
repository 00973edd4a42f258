"""One training step, written for one device of any number."""

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

# Gradients, the collections afterwards, losses and counts.
Pass = tuple[Any, dict[str, Any], Metrics, Metrics]

# Each purpose draws from its own stream of the run's seed.
INIT_STREAM, STEP_STREAM = 0, 1

# Linen's random streams that a model may draw from in training, by `self.make_rng(name)`.
RNG_STREAMS = ("dropout", "drop_path")
# Images count from 0 and streams from here, so that no two of them share a key.
_FIRST_STREAM = 1 << 31


def make_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    frozen_paths: Sequence[str] = (),
    accumulate: int = 1,
) -> Step:
    """Makes the step of one device: losses, gradients, update.

    The loss is `sum_k psum(sum_k) / max(psum(count_k), 1)` over the model's loss terms,
    so that any number of devices computes that of the whole batch. Each image draws with
    its own key, made from the run's key, the step and the image's place in the global
    batch: the numbers do not depend on how the batch is split. This holds for frozen and
    group normalisation and for synchronised batch normalisation (`NormSpec("batch",
    axis_name="data")`); plain "batch" normalises each device's images by themselves, as
    torch's does, and its running statistics are averaged over the devices.

    It does not hold for linen's streams `RNG_STREAMS` either: a stream has one key for all
    images of a call, so that dropout and drop-path depend on how many images a device and
    a micro-batch have. They are the same for the same split.

    With `accumulate` > 1 each device's images are taken in that many equal parts, one after
    the other, for the memory of one part. The gradient is the mean of the parts', as in the
    usual loop of torch. Each part divides by its own counts: where these differ, as the
    number of sampled regions can, the loss is not exactly that of the undivided batch.

    A step whose loss or gradient is not finite changes nothing but the counter.

    Args:
      model: to train.
      optimizer: over the whole parameter tree.
      schedule: the learning rate, for the metrics.
      frozen_paths: prefixes of parameters whose gradient is not even computed.
      accumulate: number of micro-batches of a step.

    Returns:
      step(state, batch, key, axis_name) -> (state, metrics). `key` is the run's, the same
      at every step; `axis_name` is None on one device. Metrics are scalars, equal on every
      device: "loss", "loss/NAME", "grad_norm" (before clipping), "learning_rate",
      "finite" and the model's counts.
    """

    def step(
        state: TrainState, batch: Batch, key: PRNGKeyArray, axis_name: str | None
    ) -> tuple[TrainState, Metrics]:
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
    """Takes the images of one pass forward and back; the gradients are this device's part."""
    frozen = frozen_mask(params, frozen_paths)
    keys, rngs = image_keys(key, len(batch.images), first), stream_keys(key, first)

    def loss_fn(params: Any) -> tuple[Array, tuple[Metrics, Metrics, dict[str, Any]]]:
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
    """Takes a device's images in equal parts: means of gradients and losses, sums of counts."""
    images = len(batch.images) // number
    parts = jax.tree.map(lambda x: x.reshape(number, images, *x.shape[1:]), batch)

    def add(carry: tuple[Any, Any], part: tuple[Batch, Array]) -> tuple[Any, tuple[Any, Any]]:
        total, before = carry
        grads, after, losses, counts = backward(before, *part)
        return (jax.tree.map(jnp.add, total, grads), after), (losses, counts)

    start = (jax.tree.map(jnp.zeros_like, params), collections)
    (total, after), (losses, counts) = jax.lax.scan(
        add, start, (parts, first + images * jnp.arange(number))
    )
    grads = jax.tree.map(lambda g: g / number, total)
    means = {name: values.mean() for name, values in losses.items()}
    return grads, after, means, {name: values.sum() for name, values in counts.items()}


def first_place(images: int, axis_name: str | None) -> Int32[Array, ""] | int:
    """The place in the global batch of this device's first image.

    Args:
      images: number of images on each device.
      axis_name: name of the mesh axis. Each device holds a run of consecutive images. None for
        one device.
    """
    return 0 if axis_name is None else jax.lax.axis_index(axis_name) * images


def image_keys(
    key: PRNGKeyArray, images: int, first: Int32[Array, ""] | int = 0
) -> Key[Array, "B"]:
    """One key for each image, by its place in the global batch.

    Args:
      key: key of the step; the same on every device.
      images: number of images.
      first: place of the first of them.

    Returns:
      Keys [images].
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(images))


def stream_keys(key: PRNGKeyArray, first: Int32[Array, ""] | int) -> dict[str, PRNGKeyArray]:
    """A key for each of linen's streams.

    Args:
      key: key of the step; the same on every device.
      first: place in the global batch of the first image that draws from them, so that devices
        and micro-batches draw differently.

    Returns:
      Keys by the names in `RNG_STREAMS`.
    """
    streams = {name: _FIRST_STREAM + index for index, name in enumerate(RNG_STREAMS)}
    return {
        name: jax.random.fold_in(jax.random.fold_in(key, place), first)
        for name, place in streams.items()
    }


def reduce_losses(terms: dict[str, LossTerm], axis_name: str | None) -> tuple[Array, Metrics]:
    """Adds up loss terms over the devices.

    Args:
      terms: this device's sums and counts.
      axis_name: name of the mesh axis, or None for one device.

    Returns:
      This device's part of the total loss (the parts' gradients add up to the total's),
      and the total's metrics "loss" and "loss/NAME", equal on every device.
    """
    # Counts do not depend on the parameters, or only through decisions (which proposals
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
    """Averages running statistics over the devices, but neither frozen ones nor whole numbers.

    Those come back as the very arrays that went in: to send them round would cost time,
    and their mean over three devices would differ from them in the last bit.
    """
    if axis_name is None:
        return after

    def mean(old: Array, new: Array) -> Array:
        same = new is old or not jnp.issubdtype(new.dtype, jnp.inexact)
        return new if same else jax.lax.pmean(new, axis_name)

    return jax.tree.map(mean, before, after)


def _select(finite: Bool[Array, ""], updated: TrainState, state: TrainState) -> TrainState:
    chosen = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state)
    return dataclasses.replace(chosen, step=updated.step)
