import cv2
import numpy as np
import pytest

from segjax.results.draw import objects as viz
from segjax.results.draw.colours import CLASS_COLOURS, class_colour, mixed_lab


def apart(points):
    """Returns the distances of all pairs."""
    gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(gaps, np.inf)
    return gaps


# Of the first 133, of all, and of neighbours up to three numbers apart, as `class_colour` states.
@pytest.mark.parametrize(
    ("measure", "least"),
    [(lambda c: c, (37, 29, 100)), (mixed_lab, (9, 7, 25))],
    ids=["RGB", "CIELAB"],
)
def test_colours_of_classes_are_all_apart(measure, least):
    colours = np.array([class_colour(k) for k in range(CLASS_COLOURS)])
    assert colours.min() >= 0 and colours.max() <= 255
    gaps = apart(measure(colours))
    found = (
        gaps[:133, :133].min(),
        gaps.min(),
        min(np.diagonal(gaps, step).min() for step in (1, 2, 3)),
    )
    assert all(a >= b for a, b in zip(found, least, strict=True)), found


def test_the_first_are_the_colours_of_objects_and_the_last_is_followed_by_the_first():
    assert [class_colour(k) for k in range(6)] == [viz.instance_colour(k) for k in range(6)]
    assert class_colour(CLASS_COLOURS) == class_colour(0)


def test_lab_is_that_of_the_mixed_colour():
    colours = np.random.default_rng(0).integers(0, 256, (500, 3))
    mixed = ((colours + 128) / 2 / 255).astype(np.float32)
    wanted = cv2.cvtColor(mixed[None], cv2.COLOR_RGB2LAB)[0]  # uses tables, so not exact
    np.testing.assert_allclose(mixed_lab(colours), wanted, atol=0.6)
    (light,) = mixed_lab(np.array([[127, 127, 127]]))
    # Middle grey, by the definition of CIELAB.
    lightness = 116 * (((127.5 / 255 + 0.055) / 1.055) ** 2.4) ** (1 / 3) - 16
    np.testing.assert_allclose(light, [lightness, 0, 0], atol=0.01)
