"""What the data side asks of parts that others can add: transforms and mixes."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

from segjax.data.example import Example

Sizes = tuple[tuple[int, int], ...]


@runtime_checkable
class Transform(Protocol):
    """Changes one example: a frozen value, so that configs can hold, compare and store it."""

    def __call__(self, example: Example, rng: np.random.Generator | None) -> Example:
        """Returns the changed example.

        Args:
          example: the image and what is known about it.
          rng: the only source of randomness; None for evaluation and prediction, where the
            result must be a function of the example alone.
        """
        ...

    def sizes(self, height: int, width: int) -> Sizes:
        """Returns the sizes that an image can get, from which canvases are made.

        Args:
          height: rows of the image before.
          width: columns of the image before.

        Returns:
          (height, width) of every possible result, evaluation's included; of very many, enough
          to know the largest height and the largest width.
        """
        ...


@runtime_checkable
class Mix(Protocol):
    """Puts parts of other images into one, in training alone; a frozen value."""

    def mix(
        self, example: Example, other: Callable[[], Example], rng: np.random.Generator
    ) -> Example:
        """Returns the mixed example, which keeps the `image_id` of the first.

        Args:
          example: after the transforms that stand before this one.
          other: reads another image of the split, drawn at random with each call, and passes it
            through the same transforms; not calling it costs nothing.
          rng: the only source of randomness.
        """
        ...

    def sizes(self, height: int, width: int) -> Sizes:
        """Returns the sizes that an image can get, as `Transform.sizes` does."""
        ...
