"""A model with its variables and its methods compiled once, and the models that tests share."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from tests.support import tiny

MOST_TERMS = 16  # that a model has


class Run:
    """A model, its variables, and what it computes."""

    def __init__(self, model: Any, variables: Any = None):
        self.model = model
        self.variables = tiny.init(model) if variables is None else variables
        self.predict = jax.jit(model.apply)
        self._grad = jax.jit(jax.value_and_grad(self._total, has_aux=True))

    def _total(self, params, rest, batch, keys, weights):
        terms, counts = self.model.apply({**rest, "params": params}, batch, keys, method="losses")
        means = {name: term.mean() for name, term in terms.items()}
        total = sum(weights[i] * means[name] for i, name in enumerate(sorted(means)))
        return total, (means, terms, counts)

    def _compute(self, batch, keys, weights=None, variables=None):
        """All that is asked of the losses comes from this one program: it is what takes long."""
        variables = self.variables if variables is None else variables
        rest = {name: tree for name, tree in variables.items() if name != "params"}
        weights = np.ones(MOST_TERMS, np.float32) if weights is None else weights
        return self._grad(variables["params"], rest, batch, keys, weights)

    def compiled(self):
        """Itself, after compiling the losses: fixtures ask for it, so that no one test pays."""
        self._compute(tiny.batch(), tiny.keys())
        return self

    def losses(self, batch, keys):
        """Total, terms, counts and gradients."""
        (total, (means, _, counts)), grads = self._compute(batch, keys)
        return total, means, counts, grads

    def sums(self, batch, keys):
        """Loss terms as sums and counts."""
        return self._compute(batch, keys)[0][1][1]

    def terms(self, batch, keys, variables=None):
        """Loss terms alone."""
        return self._compute(batch, keys, variables=variables)[0][1][0]

    @functools.cached_property
    def jacobian(self):
        """Of one batch: {loss term: its value}, {loss term: its gradient}."""
        batch, keys = tiny.batch(), tiny.keys()
        means = self.terms(batch, keys)
        rows = zip(sorted(means), np.eye(MOST_TERMS, dtype=np.float32), strict=False)
        return means, {name: self._compute(batch, keys, weights)[1] for name, weights in rows}

    @functools.cached_property
    def reach(self):
        """{loss term: names, with "/", of the parameters that it has a gradient for}."""
        return {name: moved(tree) for name, tree in self.jacobian[1].items()}


def loss_terms(model, variables, batch, keys):
    """Means of a model's loss terms, for programs that need no gradients."""
    terms, _ = model.apply(variables, batch, keys, method="losses")
    return {name: term.mean() for name, term in terms.items()}


def moved(tree):
    """Names, with "/", of the arrays that are not zero everywhere."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if np.asarray(leaf).any()
    }


def all_names(tree):
    """Names, with "/", of all arrays."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    }


def assert_finite(tree):
    """Every number is finite."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        assert np.isfinite(np.asarray(leaf, np.float32)).all(), path


# ---- Shared models --------------------------------------------------------------------------


def with_anchors_over_the_border(model):
    """On images this small mmdet's rule leaves the upper levels no anchor to learn from."""
    return model.clone(rpn=dataclasses.replace(model.rpn, allowed_border=None))


def all_regions(model):
    """The cascade with all anchors and regions in its losses, whatever the key."""
    model = with_anchors_over_the_border(model)
    return model.clone(
        rpn=dataclasses.replace(model.rpn, num_samples=10**5),
        stages=tiny.with_samples(model.stages, 10**5),
    )


MODELS = {
    "mask_rcnn": tiny.mask_rcnn,
    "cascade_mask_rcnn_detectron2": tiny.cascade_mask_rcnn,
    # Passing ground truth on, it is what HTC without its ideas is compared with.
    "cascade_mask_rcnn_mmdet": lambda: all_regions(tiny.cascade_mask_rcnn("mmdet")).clone(
        passes_gt=True
    ),
    "htc": tiny.htc,
}


@functools.cache
def shared(name: str) -> Run:
    """The one run of a model for all modules that a worker tests; nobody writes to it."""
    return Run(MODELS[name]()).compiled()
