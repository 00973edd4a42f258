"""Number of examples drawn by a property test."""

from hypothesis import settings


def examples(part: float = 1.0) -> settings:
    """Returns a fraction of the profile's number of examples, for tests with expensive examples.

    tests/conftest.py defines the profiles and their numbers of examples.
    """
    return settings(max_examples=max(1, round(part * settings().max_examples)))
