"""RLE agrees with pycocotools on valid input and refuses invalid input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as mask_utils

from segjax.data import rle
from tests.support.examples import examples

MASKS = hnp.arrays(
    bool,
    st.tuples(st.integers(1, 24), st.integers(1, 24)),
    elements=st.booleans(),
    fill=st.booleans(),
)


def reference(mask):
    encoded = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


@given(MASKS)
@examples(15)
def test_agrees_with_pycocotools(mask):
    encoded = rle.encode(mask)
    assert encoded == reference(mask)
    np.testing.assert_array_equal(rle.decode(encoded), mask)
    assert rle.area(encoded) == mask.sum()
    x, y, w, h = mask_utils.toBbox({**encoded, "counts": encoded["counts"].encode()})
    assert rle.to_bbox(encoded) == ((x, y, x + w, y + h) if mask.any() else (0, 0, 0, 0))


@given(st.lists(st.integers(0, 90_000), min_size=1, max_size=60))
@examples(10)
def test_long_runs_round_trip(counts):
    counts = np.array([*counts, 1])
    height, width = 1, int(counts.sum())
    text = rle.string_from_counts(counts)
    np.testing.assert_array_equal(rle.counts_from_string(text, height, width), counts)


@given(MASKS, st.data())
@examples(10)
def test_crop_is_the_pixel_under_each_cell(mask, data):
    height, width = mask.shape
    x0, y0 = data.draw(st.floats(-3, width)), data.draw(st.floats(-3, height))
    x1, y1 = x0 + data.draw(st.floats(0.01, 30)), y0 + data.draw(st.floats(0.01, 30))
    crop = rle.decode_crop(rle.encode(mask), (x0, y0, x1, y1), (5, 7))
    rows = np.floor(y0 + (np.arange(5) + 0.5) * ((y1 - y0) / 5)).astype(int)
    columns = np.floor(x0 + (np.arange(7) + 0.5) * ((x1 - x0) / 7)).astype(int)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            inside = 0 <= row < height and 0 <= column < width
            assert crop[i, j] == (inside and mask[row, column])


def test_crop_of_whole_image_is_the_mask():
    mask = np.random.default_rng(0).random((13, 29)) < 0.4
    crop = rle.decode_crop(rle.encode(mask), (0, 0, 29, 13), (13, 29))
    np.testing.assert_array_equal(crop, mask)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40))
@examples(100)
def test_fuzz_any_text(text):
    check_hostile(text)


def near_the_truth(rng):
    """Draws the encoding of a 7 x 9 mask, with up to two wrong characters."""
    counts = np.diff(np.sort(rng.integers(0, 64, rng.integers(0, 9))), prepend=0, append=63)
    text = list(rle.string_from_counts(counts))
    for _ in range(rng.integers(0, 3)):
        text[rng.integers(len(text))] = chr(rng.integers(46, 113))
    return "".join(text)


def test_fuzz_near_the_truth():
    """Text that passes the parser is safe for pycocotools and re-encodes to the same mask."""
    rng = np.random.default_rng(0)
    accepted = sum(check_hostile(near_the_truth(rng)) for _ in range(3000))
    assert 600 < accepted < 2400


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
@pytest.mark.parametrize(
    ("count", "seed"), [(100_000, 1), pytest.param(1_000_000, 2, marks=pytest.mark.nightly)]
)
def test_fuzz_many_strings(count, seed):
    """Every string is refused with an `RleError` or decodes to the pixels of pycocotools."""
    rng = np.random.default_rng(seed)
    seeds = [near_the_truth(rng).encode() for _ in range(500)]
    accepted = 0
    for _ in range(count):
        text = mutated(seeds, rng)
        try:
            counts = rle.counts_from_string(text, 7, 9)
        except rle.RleError:
            continue
        accepted += 1
        assert counts.min() >= 0
        assert counts.sum() == 63
        pixels = mask_utils.decode({"size": [7, 9], "counts": text.encode()})
        assert (pixels.ravel("F") == np.repeat(np.arange(counts.size) % 2, counts)).all()
    assert count / 100 < accepted < count / 2


def mutated(seeds, rng):
    """Joins the head of one string to the tail of another and changes up to three bytes."""
    first, second, head, tail, changes = rng.integers(0, 1 << 30, 5).tolist()
    first, second = seeds[first % len(seeds)], seeds[second % len(seeds)]
    if tail % 2:
        second = first
    cut = head % (len(first) + 1)
    text = bytearray(first[:cut] + second[cut:])
    for place, byte in rng.integers(0, 1 << 30, (changes % 4, 2)).tolist():
        if text:
            text[place % len(text)] = byte % 128 if byte % 3 == 0 else 48 + byte % 64
    return text.decode("ascii")


def check_hostile(text, size=(7, 9)):
    value = {"size": list(size), "counts": text}
    try:
        mask = rle.decode(value)
    except rle.RleError:
        return False
    clean = rle.canonical(value)
    assert rle.encode(mask) == clean
    assert mask_utils.area({**clean, "counts": clean["counts"].encode()}) == mask.sum()
    return True


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("o", "middle of a number"),
        ("ooooooooooooooooooo0", "digits"),
        ("é", "ASCII"),
        (" ", "outside"),
        ("5O", "negative"),
        ("5", "add up"),
    ],
)
def test_malformed_strings_are_named(text, reason):
    with pytest.raises(rle.RleError, match=reason):
        rle.decode({"size": [4, 4], "counts": text})


def test_size_is_capped_before_memory_is_taken():
    with pytest.raises(rle.RleError, match="at most"):
        rle.decode({"size": [1 << 20, 1 << 20], "counts": "0"})


@pytest.mark.parametrize("counts", [[4, 4], [20, -4], [1.5, 14.5], ["16"], [], [[16]]])
def test_bad_uncompressed_counts(counts):
    with pytest.raises(rle.RleError):
        rle.from_counts(counts, 4, 4)


def test_uncompressed_counts():
    mask = np.zeros((4, 4), bool)
    mask[1:3, 1] = True
    assert rle.from_counts([5, 2, 9], 4, 4) == rle.encode(mask)
    assert rle.from_counts([5, 1, 0, 1, 9], 4, 4) == rle.encode(mask)


def test_polygons_are_pycocotools_and_united():
    squares = [[0, 0, 4, 0, 4, 4, 0, 4], [2.0, 2.0, 6, 2, 6, 6, 2, 6]]
    mask = np.zeros((8, 8), bool)
    mask[:4, :4] = mask[2:6, 2:6] = True
    assert rle.from_polygons(squares, 8, 8) == rle.encode(mask)


@pytest.mark.parametrize(
    "polygon",
    [
        [0, 0, 1, 1],
        [0, 0, 1, 1, 2, 2, 3],
        [0, 0, 1, float("nan"), 2, 2],
        [0, 0, 1e9, 0, 2, 2],
        [0, 0, "1", 0, 2, 2],
        [0.0] * (2 * rle.MAX_POLYGON_POINTS + 2),
    ],
)
def test_bad_polygons(polygon):
    with pytest.raises(rle.RleError):
        rle.from_polygons([polygon], 8, 8)


def test_no_polygons():
    with pytest.raises(rle.RleError, match="without polygons"):
        rle.from_polygons([], 8, 8)


def rasters(shape):
    return st.lists(st.booleans(), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]).map(
        lambda bits: np.array(bits, bool).reshape(shape)
    )


@given(rasters((3, 4)), st.lists(rasters((3, 4)), max_size=3))
def test_a_union_is_the_pixels_of_any_mask(first, others):
    wanted = np.any([first, *others], axis=0)
    assert rle.union([rle.encode(mask) for mask in (first, *others)]) == rle.encode(wanted)


def test_masks_of_two_sizes_have_no_union():
    with pytest.raises(rle.RleError, match=r"different sizes: \[\[2, 3\], \[3, 2\]\]"):
        rle.union([rle.encode(np.ones(size, bool)) for size in ((2, 3), (3, 2))])


@given(rasters((3, 4)), st.integers(-4, 5), st.integers(-4, 5))
def test_a_part_lies_where_its_corner_is(part, x, y):
    whole = np.zeros((5, 4), bool)
    for row, column in np.argwhere(part):
        if 0 <= row + y < 5 and 0 <= column + x < 4:
            whole[row + y, column + x] = True
    assert rle.encode_part(part, (x, y), 5, 4) == rle.encode(whole)


def test_masks_of_parts_are_placed():
    rng = np.random.default_rng(0)
    for _ in range(100):
        rows, columns = rng.integers(1, 12, 2).tolist()
        height, width = rows + int(rng.integers(0, 5)), columns + int(rng.integers(0, 5))
        x, y = int(rng.integers(0, width - columns + 1)), int(rng.integers(0, height - rows + 1))
        mask = rng.random((rows, columns)) < rng.choice([0, 0.3, 0.9, 1])
        whole = np.zeros((height, width), bool)
        whole[y : y + rows, x : x + columns] = mask
        assert rle.placed(rle.encode(mask), (x, y), height, width) == rle.encode(whole)
    with pytest.raises(rle.RleError, match="not inside an image of 5 x 5"):
        rle.placed(rle.encode(np.ones((4, 4), bool)), (2, 0), 5, 5)
