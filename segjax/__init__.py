"""Instance segmentation in JAX: a pure-functional model zoo in Flax linen."""

__version__ = "0.1.0"
