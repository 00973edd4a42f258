"""Fragments survive a round trip through a file; other files are refused."""

import io
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.figure_ground.fragments import Fragments, TopDownConfig
from segjax.figure_ground.fragments_files import load_fragments, save_fragments
from segjax.figure_ground.top_down import top_down


@pytest.fixture
def fragments():
    rng = np.random.default_rng(0)
    return Fragments(
        patches=jnp.asarray(rng.normal(size=(4, 6, 6)), jnp.float32),
        sizes=jnp.asarray([3, 6, 5, 4], jnp.int32),
        thresholds=jnp.asarray(rng.uniform(size=4), jnp.float32),
        information=jnp.asarray(rng.uniform(size=4), jnp.float32),
        labels=jnp.asarray(rng.uniform(size=(4, 6, 6)), jnp.float32),
        downsample=3,
    )


@pytest.fixture
def path(tmp_path, fragments):
    save_fragments(tmp_path / "some.fragments", fragments)
    return tmp_path / "some.fragments"


def changed(path, **arrays):
    """Rewrites the file with other contents; None removes an array."""
    with np.load(path) as file:
        content = {name: file[name] for name in file.files} | arrays
    with path.open("wb") as file:
        np.savez(file, **{name: v for name, v in content.items() if v is not None})


def test_fragments_come_back_bit_for_bit(path, fragments):
    again = load_fragments(path)
    assert jax.tree.structure(again) == jax.tree.structure(fragments)  # includes downsample
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(fragments), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert [p.name for p in path.parent.iterdir()] == ["some.fragments"]


def test_a_file_is_replaced(path, fragments):
    save_fragments(str(path), jax.tree.map(lambda values: values[:2], fragments))
    assert load_fragments(str(path)).patches.shape == (2, 6, 6)


def test_loaded_fragments_segment(path, fragments):
    image = jnp.asarray(np.random.default_rng(1).uniform(size=(30, 33, 3)), jnp.float32)
    config = TopDownConfig(downsample=3, sizes=(3, 4, 5, 6))
    ours, wanted = (top_down(image, f, config) for f in (load_fragments(path), fragments))
    np.testing.assert_array_equal(ours.probability, wanted.probability)
    assert wanted.confidence.max() > 0


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"version": np.array(2)}, "has version 2, this segjax reads 1"),
        ({"format": np.array("other")}, "is no file of fragments: `save_fragments` writes"),
        ({"format": None}, "is no file of fragments: `save_fragments` writes"),
        ({"version": None}, "has version None, this segjax reads 1"),
        ({"version": np.array([1, 1])}, "has version .1 1., this segjax reads 1"),
        ({"downsample": np.array([2, 2])}, "downsample is .2 2., wanted one integer"),
        ({"labels": None, "downsample": None}, "lacks downsample, labels"),
        ({"labels": np.zeros((4, 6, 6))}, "labels is float64 .*wanted float32 of 3 axes"),
        ({"sizes": np.zeros((4, 1), np.int32)}, "sizes is int32 .4, 1., wanted int32 of 1 axes"),
        ({"labels": np.zeros((4, 5, 6), np.float32)}, "the arrays' shapes are"),
        ({"sizes": np.zeros(3, np.int32)}, "the arrays' shapes are"),
    ],
)
def test_other_content_is_refused(path, arrays, message):
    changed(path, **arrays)
    with pytest.raises(ValueError, match=message):
        load_fragments(path)


@pytest.mark.parametrize("kind", ["half", "text", "empty", "npy", "other zip", "pickle"])
def test_other_files_are_refused(path, kind):
    whole = path.read_bytes()
    if kind == "pickle":
        changed(path, patches=np.array([{}], object))
    else:
        npy, other = io.BytesIO(), io.BytesIO()
        np.save(npy, np.zeros(3))
        with zipfile.ZipFile(other, "w") as archive:
            archive.writestr("text", "text")
        path.write_bytes(
            {
                "half": whole[: len(whole) // 2],
                "text": b"fragments",
                "empty": b"",
                "npy": npy.getvalue(),
                "other zip": other.getvalue(),
            }[kind]
        )
    with pytest.raises(ValueError, match="is no file of fragments"):
        load_fragments(path)


def test_whatever_is_damaged_the_file_is_named(path):
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            load_fragments(path)  # some bits are unused, for example those of dates
        except ValueError as error:
            assert str(error).startswith(str(path))
            refused += 1
    assert refused > 200


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_fragments(tmp_path / "none")
