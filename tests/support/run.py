"""Models with variables and methods that are compiled only once, and models shared by tests."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from tests.support import tiny

MOST_TERMS = 16  # upper limit on a model's loss terms


class Run:
    """A model, its variables and its compiled computations."""

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
        """Runs the one program behind all loss queries, because compiling it is slow."""
        variables = self.variables if variables is None else variables
        rest = {name: tree for name, tree in variables.items() if name != "params"}
        weights = np.ones(MOST_TERMS, np.float32) if weights is None else weights
        return self._grad(variables["params"], rest, batch, keys, weights)

    def compiled(self):
        """Compiles the losses and returns self, so that fixtures, not a single test, pay for it."""
        self._compute(tiny.batch(), tiny.keys())
        return self

    def losses(self, batch, keys):
        """Returns total, terms, counts and gradients."""
        (total, (means, _, counts)), grads = self._compute(batch, keys)
        return total, means, counts, grads

    def sums(self, batch, keys):
        """Returns loss terms as sums and counts."""
        return self._compute(batch, keys)[0][1][1]

    def terms(self, batch, keys, variables=None):
        """Returns the values of the loss terms."""
        return self._compute(batch, keys, variables=variables)[0][1][0]

    @functools.cached_property
    def jacobian(self):
        """Returns {loss term: value} and {loss term: gradient} for one batch."""
        batch, keys = tiny.batch(), tiny.keys()
        means = self.terms(batch, keys)
        rows = zip(sorted(means), np.eye(MOST_TERMS, dtype=np.float32), strict=False)
        return means, {name: self._compute(batch, keys, weights)[1] for name, weights in rows}

    @functools.cached_property
    def reach(self):
        """Returns {loss term: "/"-separated names of parameters with a gradient}."""
        return {name: moved(tree) for name, tree in self.jacobian[1].items()}


def loss_terms(model, variables, batch, keys):
    """Returns the means of a model's loss terms, for programs without gradients."""
    terms, _ = model.apply(variables, batch, keys, method="losses")
    return {name: term.mean() for name, term in terms.items()}


def moved(tree):
    """Returns the "/"-separated names of arrays with nonzero entries."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if np.asarray(leaf).any()
    }


def all_names(tree):
    """Returns the "/"-separated names of all arrays."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    }


def assert_finite(tree):
    """Asserts that every number is finite."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        assert np.isfinite(np.asarray(leaf, np.float32)).all(), path


# ---- Shared models --------------------------------------------------------------------------


def with_anchors_over_the_border(model):
    """Adds anchors across the border; without them mmdet's upper levels have none to train on."""
    return model.clone(rpn=dataclasses.replace(model.rpn, allowed_border=None))


def all_regions(model):
    """Returns the cascade with all anchors and regions in its losses, for any key."""
    model = with_anchors_over_the_border(model)
    return model.clone(
        rpn=dataclasses.replace(model.rpn, num_samples=10**5),
        stages=tiny.with_samples(model.stages, 10**5),
    )


MODELS = {
    "mask_rcnn": tiny.mask_rcnn,
    "cascade_mask_rcnn_detectron2": tiny.cascade_mask_rcnn,
    # Passes ground truth on, because it is compared with HTC stripped of its ideas.
    "cascade_mask_rcnn_mmdet": lambda: all_regions(tiny.cascade_mask_rcnn("mmdet")).clone(
        passes_gt=True
    ),
    "htc": tiny.htc,
}


@functools.cache
def shared(name: str) -> Run:
    """Returns a model's run, shared by all test modules of a worker; tests must not modify it."""
    return Run(MODELS[name]()).compiled()
