"""Datasets, from files to padded batches of numpy arrays.

Neither JAX nor Flax is imported here, so that worker processes start quickly.
"""

from segjax.data.config import DataConfig as DataConfig
from segjax.data.shapes import ShapesConfig as ShapesConfig
