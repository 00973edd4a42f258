"""Images that show one picture are one group; others are not."""

import io

import numpy as np
import pytest
from PIL import Image

from segjax.data.duplicates import group_images, source_of
from segjax.data.shapes import ShapesConfig, generate
from tests.support.samples import encoded


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Drawn pictures, which have smooth parts and edges as photographs do."""
    root = tmp_path_factory.mktemp("shapes")
    generate(ShapesConfig(image_size=128, num_train=8, num_val=1), root)
    return [np.array(Image.open(path)) for path in sorted((root / "train").iterdir())]


def saved(pixels, quality=None, scale=1.0):
    image = Image.fromarray(pixels)
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.save(file, *(("PNG",) if quality is None else ("JPEG",)), quality=quality or 75)
    return file.getvalue()


def same(groups, *members):
    return len({groups[i] for i in members}) == 1


def test_copies_other_qualities_and_other_sizes_are_one_picture(pictures):
    made = []
    for number, pixels in enumerate(pictures):
        forms = [saved(pixels), saved(pixels), saved(pixels, 50), saved(pixels, 90, 1.5)]
        made += [(f"{number}-{i}.png", data) for i, data in enumerate(forms)]
    groups, hashes = group_images(made)
    assert all(same(groups, *range(i, i + 4)) for i in range(0, len(made), 4))
    assert len(set(groups)) == len(pictures)
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_small_object_makes_another_picture():
    dark = np.zeros((240, 240, 3), np.uint8)
    made = []
    for number in range(5):
        picture = dark.copy()
        picture[20 + 40 * number : 26 + 40 * number, 60:66] = 120
        made.append((f"{number}.png", encoded(picture)))
    assert len(set(group_images([*made, ("dark.png", encoded(dark))])[0])) == 6


def test_names_of_roboflow_and_of_a_pattern_are_sources(pictures):
    names = ["a_jpg.rf.0a1b.jpg", "b_jpg.rf.2c3d.jpg", "a_jpg.rf.4e5f.jpg", "clip1_1.jpg"]
    names += ["clip1_2.jpg", "clip12_1.jpg"]
    made = [(name, saved(pixels)) for name, pixels in zip(names, pictures, strict=False)]
    groups, _ = group_images(made)
    assert same(groups, 0, 2) and len(set(groups)) == 5
    groups, _ = group_images(made, "clip[0-9]+_")
    assert same(groups, 0, 2) and same(groups, 3, 4) and len(set(groups)) == 4
    assert source_of("x/clip1_2.jpg", "(clip[0-9]+)_") == "clip1"
    assert source_of("x/clip1_2.jpg") is None


def test_groups_are_joined_by_any_of_the_reasons(pictures):
    first, second, *_ = pictures
    made = [("v7_1.png", saved(first)), ("v7_2.png", saved(second)), ("x.jpg", saved(second, 60))]
    assert same(group_images(made, "v[0-9]+_")[0], 0, 1, 2)


def test_files_that_cannot_be_decoded_are_pictures_of_their_own(pictures):
    made = [("a.png", b"nothing"), ("b.png", b""), ("c.png", saved(pictures[0]))]
    assert len(set(group_images(made)[0])) == 3
    assert group_images([]) == ([], [])
