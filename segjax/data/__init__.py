"""Datasets, from files on disk to padded batches of NumPy arrays.

This package imports neither JAX nor Flax, so that worker processes start quickly.
"""

from segjax.data.config import DataConfig as DataConfig
from segjax.data.shapes import ShapesConfig as ShapesConfig
