"""A model with its variables and its methods compiled once."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests import tiny


class Run:
    """A model, its variables, and what it computes."""

    def __init__(self, model: Any, variables: Any = None):
        self.model = model
        self.variables = tiny.init(model) if variables is None else variables
        self.predict = jax.jit(model.apply)
        self._grad = jax.jit(jax.value_and_grad(self._total, has_aux=True))
        self._terms = jax.jit(lambda *args: self._means(*args)[0])

    def _means(self, variables, batch, keys):
        terms, counts = self.model.apply(variables, batch, keys, method="losses")
        return {name: term.mean() for name, term in terms.items()}, (terms, counts)

    def _total(self, params, batch, keys):
        means, rest = self._means({**self.variables, "params": params}, batch, keys)
        return sum(means.values()), (means, *rest)

    def losses(self, batch, keys):
        """Total, terms, counts and gradients."""
        (total, (means, _, counts)), grads = self._grad(self.variables["params"], batch, keys)
        return total, means, counts, grads

    def sums(self, batch, keys):
        """Loss terms as sums and counts, by the program of `losses`."""
        return self._grad(self.variables["params"], batch, keys)[0][1][1]

    def terms(self, batch, keys, variables=None):
        """Loss terms alone, by a program without gradients."""
        return self._terms(self.variables if variables is None else variables, batch, keys)

    @functools.cached_property
    def jacobian(self):
        """Of one batch: {loss term: its value}, {loss term: its gradient}."""
        batch, keys = tiny.batch(), tiny.keys()

        def compute(params):
            means, pull, _ = jax.vjp(
                lambda p: self._means({**self.variables, "params": p}, batch, keys),
                params,
                has_aux=True,
            )
            rows = jax.tree.unflatten(jax.tree.structure(means), list(jnp.eye(len(means))))
            return means, jax.vmap(pull)(rows)[0]

        means, stacked = jax.jit(compute)(self.variables["params"])
        gradients = {
            name: jax.tree.map(lambda x, i=i: x[i], stacked) for i, name in enumerate(sorted(means))
        }
        return means, gradients

    @functools.cached_property
    def reach(self):
        """{loss term: names, with "/", of the parameters that it has a gradient for}."""
        return {name: _moved(tree) for name, tree in self.jacobian[1].items()}


def _moved(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if np.asarray(leaf).any()
    }


def assert_finite(tree):
    """Every number is finite."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        assert np.isfinite(np.asarray(leaf, np.float32)).all(), path
