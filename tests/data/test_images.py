"""Image files of every kind are converted to RGB bytes or refused with a named defect."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from segjax.data.images import ImageError, decode_image, read_size, verify_image
from tests.support.samples import encoded, picture

RGB = picture(12, 17)


def test_png_is_exact():
    np.testing.assert_array_equal(decode_image(encoded(RGB)), RGB)
    assert read_size(encoded(RGB)) == (12, 17)


def test_gray_alpha_palette_and_one_bit():
    gray = RGB[..., 0]
    np.testing.assert_array_equal(decode_image(encoded(gray)), np.repeat(gray[..., None], 3, 2))
    rgba = np.concatenate([RGB, gray[..., None]], axis=2)
    np.testing.assert_array_equal(decode_image(encoded(rgba)), RGB)
    for mode in ("P", "1", "LA"):
        image = Image.fromarray(RGB).convert(mode)
        file = io.BytesIO()
        image.save(file, "PNG")
        expected = np.asarray(image.convert("L" if mode == "LA" else "RGB").convert("RGB"))
        np.testing.assert_array_equal(decode_image(file.getvalue()), expected)


def test_sixteen_bits_keep_the_upper_eight():
    deep = (RGB[..., 0].astype(np.uint16) << 8) | 77
    data = cv2.imencode(".png", deep)[1].tobytes()
    np.testing.assert_array_equal(decode_image(data)[..., 1], RGB[..., 0])


def test_jpegs_including_cmyk_and_gray():
    smooth = cv2.resize(RGB, (64, 48), interpolation=cv2.INTER_CUBIC)
    for image in (Image.fromarray(smooth), Image.fromarray(smooth).convert("CMYK")):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=95)
        found = decode_image(file.getvalue())
        assert np.abs(found.astype(int) - smooth).mean() < 10
    assert decode_image(encoded(smooth[..., 0], "JPEG")).shape == (48, 64, 3)


def test_exif_rotation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(RGB, "JPEG", exif=exif)
    assert decode_image(data).shape == (12, 17, 3)
    assert read_size(data) == (12, 17)


def test_animation_gives_its_first_frame():
    frames = [Image.fromarray(np.full((5, 6, 3), v, np.uint8)) for v in (10, 200)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(file.getvalue()).max() < 20


def test_bombs_are_refused_by_their_header():
    data = encoded(np.zeros((9000, 9000), np.uint8))
    with pytest.raises(ImageError, match=r"81\.0 megapixels"):
        decode_image(data)


@pytest.mark.parametrize(
    "data", [b"", b"hello", encoded(RGB)[:30], b"\x89PNG\r\n\x1a\n" + b"0" * 99]
)
def test_damaged_files(data):
    with pytest.raises(ImageError):
        decode_image(data)


def test_verify_finds_truncation_and_other_sizes():
    data = encoded(picture(80, 80), "JPEG")
    verify_image(data, 80, 80)
    with pytest.raises(ImageError, match="decoded"):
        verify_image(data[: len(data) // 2], 80, 80)
    with pytest.raises(ImageError, match="annotations say 40 x 80"):
        verify_image(data, 40, 80)
    with pytest.raises(ImageError, match="32 bits"):
        file = io.BytesIO()
        Image.fromarray(np.zeros((4, 4), np.float32)).save(file, "TIFF")
        decode_image(file.getvalue())
