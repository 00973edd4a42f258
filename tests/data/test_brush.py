"""Label Studio's run lengths, against an encoder of the other form that its decoder also takes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segjax.data.brush import decode_brush
from segjax.data.rle import RleError
from tests.data.formats.test_label_studio import RING
from tests.support.format_samples import HEIGHT, WIDTH, ring


def pack(values, runs):
    """Packs bytes into chunks of given lengths: repeated words where they are equal."""
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{width - 1:04b}" for width in (3, 4, 8, 16))
    place = 0
    for length in runs:
        chunk = values[place : place + length]
        width = next(i for i, w in enumerate((3, 4, 8, 16)) if len(chunk) <= 1 << w)
        bits += f"{int(len(set(chunk)) == 1):b}{width:02b}{len(chunk) - 1:0{(3, 4, 8, 16)[width]}b}"
        bits += "".join(f"{value:08b}" for value in (chunk[:1] if len(set(chunk)) == 1 else chunk))
        place += length
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def test_bytes_of_label_studios_own_encoder():
    np.testing.assert_array_equal(decode_brush(RING, HEIGHT, WIDTH), ring())


@given(st.data())
def test_repeated_and_single_words_of_any_length(data):
    alpha = data.draw(st.lists(st.sampled_from([0, 1, 255]), min_size=12, max_size=12))
    values = [byte for value in alpha for byte in (9, 0, 200, value)]
    runs = []
    while sum(runs) < len(values):
        runs.append(data.draw(st.integers(1, len(values) - sum(runs))))
    mask = decode_brush(pack(values, runs), 3, 4)
    np.testing.assert_array_equal(mask.ravel(), np.array(alpha) > 0)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "not a list of bytes"),
        ([1.5], "not a list of bytes"),
        ([-1], r"outside 0\.\.255"),
        (RING[:30], "in the middle of a number"),
        ([255, 255, 255, 255, *RING[4:]], "a brush mask of 4294967295 bytes, wanted 4 x 20 x 40"),
        ([*RING[:4], 0, 0, 0, *([255] * 500)], "in the middle|beyond the image"),
    ],
)
def test_malformed_data_are_refused(data, words):
    with pytest.raises(RleError, match=words):
        decode_brush(data, HEIGHT, WIDTH)


def test_another_size_is_refused():
    with pytest.raises(RleError, match="a brush mask of 3200 bytes, wanted 4 x 40 x 40"):
        decode_brush(RING, 40, 40)
