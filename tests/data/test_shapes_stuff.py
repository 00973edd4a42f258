"""Shapes on stuff backgrounds: exact panoptic annotations, and no change when stuff is disabled."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from segjax.data import shapes
from segjax.data.grounds import GROUND_IDS, GROUNDS, draw_grounds
from segjax.data.shapes import ShapesConfig, generate

STUFF = ShapesConfig(
    image_size=64,
    num_train=12,
    num_val=3,
    max_side=40,
    crowd_fraction=0.4,
    empty_fraction=0.2,
    stuff_regions=4,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("stuff")
    generate(STUFF, root)
    return root


def read(root, kind):
    return json.loads((root / "annotations" / f"{kind}_train.json").read_text())


def read_ids(root, entry):
    pixels = np.array(Image.open(root / "panoptic_train" / entry["file_name"])).astype(int)
    return pixels @ np.array([1, 256, 65536])


def draw(config, index):
    return shapes.draw(config, np.random.default_rng([config.seed, 0, index]))


def test_segments_are_what_was_drawn(folder):
    """Each pixel has the category of its object or, if there is none, of its ground."""
    data = read(folder, "panoptic")
    assert [c["isthing"] for c in data["categories"]] == [1] * 4 + [0] * 4
    crowds = 0
    for index, entry in enumerate(data["annotations"]):
        picture, ids = draw(STUFF, index), read_ids(folder, entry)
        expected = np.array(GROUND_IDS)[picture.ground]
        for kind, mask, _ in picture.objects:
            expected[mask] = shapes.CATEGORY_IDS[kind]
        segments = {s["id"]: s for s in entry["segments_info"]}
        assert set(np.unique(ids)) == set(segments)
        assert len(segments) == len(entry["segments_info"])
        for number, segment in segments.items():
            mask = ids == number
            assert set(expected[mask]) == {segment["category_id"]}
            assert segment["area"] == mask.sum()
            rows, columns = np.nonzero(mask)
            x, y, w, h = segment["bbox"]
            assert (x, y) == (columns.min(), rows.min())
            assert (x + w, y + h) == (columns.max() + 1, rows.max() + 1)
        stuff = [s["category_id"] for s in segments.values() if s["category_id"] in GROUND_IDS]
        assert len(set(stuff)) == len(stuff), "one segment a class of stuff"
        crowds += sum(s["iscrowd"] for s in segments.values())
    assert crowds > 0


def test_things_are_the_instances(folder):
    instances = read(folder, "instances")["annotations"]
    for entry in read(folder, "panoptic")["annotations"]:
        things = [s for s in entry["segments_info"] if s["category_id"] not in GROUND_IDS]
        objects = [a for a in instances if a["image_id"] == entry["image_id"]]
        fields = ("category_id", "iscrowd", "bbox", "area")
        assert [[s[f] for f in fields] for s in things] == [[a[f] for f in fields] for a in objects]


def test_grounds_have_several_regions_and_every_class_occurs():
    rng = np.random.default_rng(0)
    numbers = np.zeros(5, int)
    seen = np.zeros(4, int)
    for _ in range(60):
        image, ground = draw_grounds(48, 4, rng)
        assert image.shape == (48, 48, 3)
        parts = np.bincount(ground.ravel(), minlength=4)
        numbers[(parts > 0).sum()] += 1
        seen += parts > 0
    assert numbers[:2].sum() == 0
    assert (numbers[2:] > 5).all()
    assert (seen > 20).all()
    few = [draw_grounds(48, 2, rng)[1] for _ in range(5)]
    assert all(set(np.unique(ground)) == {0, 1} for ground in few)


def test_textures_tell_the_classes_apart():
    """Blades vary along x, waves along y, grains along both and blotches along neither."""
    rng = np.random.default_rng(1)
    slopes = {name: [] for name in GROUNDS}
    for _ in range(40):
        image, ground = draw_grounds(96, 4, rng)
        gray = image.astype(float).mean(axis=2)
        down, across = np.abs(np.diff(gray, axis=0)), np.abs(np.diff(gray, axis=1))
        for kind, name in enumerate(GROUNDS):
            inside = ground == kind
            if inside.sum() > 200:
                pairs = inside[1:] & inside[:-1], inside[:, 1:] & inside[:, :-1]
                slopes[name].append((down[pairs[0]].mean(), across[pairs[1]].mean()))
    down, across = (
        {name: np.array(found)[:, axis] for name, found in slopes.items()} for axis in (0, 1)
    )
    assert (across["grass"] > 2 * down["grass"]).all()
    assert (down["water"] > 2 * across["water"]).all()
    assert min(down["sand"].min(), across["sand"].min()) > 6
    assert max(down["sky"].max(), across["sky"].max()) < 4


# From images drawn before `stuff_regions` existed: pixels (0, 0), (0, 32), (32, 0) ..., and for
# each object its class, area and whether it is a crowd.
BEFORE = {
    0: ([110, 40, 8, 31, 109, 109, 158, 67, 76, 82, 130, 104], []),
    2: ([96, 74, 123, 129, 98, 61, 113, 139, 103, 92, 105, 84], [(2, 284, 0), (0, 1522, 0)]),
    5: (
        [152, 41, 126, 135, 63, 90, 70, 64, 81, 96, 39, 96],
        [(2, 674, 0), (1, 302, 0), (0, 1249, 0)],
    ),
}


@pytest.mark.parametrize("index", BEFORE)
def test_without_regions_pictures_are_what_they_were(index):
    """Grey levels may differ by one between releases of OpenCV; random draws may not differ."""
    config = ShapesConfig(
        image_size=96, num_train=40, num_val=6, max_side=48, crowd_fraction=0.3, empty_fraction=0.2
    )
    assert config.fingerprint() == "74740f1d6d2d95b3"
    picture = draw(config, index)
    pixels, objects = BEFORE[index]
    found = picture.image[::32, ::32].ravel()[:12].astype(int)
    assert np.abs(found - np.array(pixels)).max() <= 1
    assert [(kind, mask.sum(), crowd) for kind, mask, crowd in picture.objects] == objects
    assert picture.ground is None


def test_sets_with_and_without_regions_replace_each_other(tmp_path):
    small = dataclasses.replace(STUFF, num_train=1, num_val=1)
    generate(small, tmp_path)
    assert (tmp_path / "panoptic_val" / "000000.png").exists()
    bare = dataclasses.replace(small, stuff_regions=0)
    assert bare.fingerprint() != small.fingerprint()
    generate(bare, tmp_path)
    assert not list(tmp_path.rglob("*panoptic*"))
    with pytest.raises(ValueError, match="stuff_regions is 1: wanted 0, or 2 to 4 classes"):
        ShapesConfig(stuff_regions=1)
