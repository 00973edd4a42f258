"""Number of examples that a property test draws."""

from hypothesis import settings


def examples(part: float = 1.0) -> settings:
    """The profile's number, or a part of it for tests whose every example takes long.

    The profiles, with the number of examples, are in tests/conftest.py.
    """
    return settings(max_examples=max(1, round(part * settings().max_examples)))
