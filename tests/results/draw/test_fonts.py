"""Labels in any script on drawings."""

import numpy as np
import pytest

from segjax import draw
from segjax.results.detections import ImageDetections
from segjax.results.draw import fonts, objects


def drawn(name, **options):
    found = ImageDetections(
        boxes=np.array([[50, 80, 200, 150]], np.float32),
        scores=np.array([0.9], np.float32),
        classes=np.array([0], np.int32),
        image_size=(200, 300),
        class_names=(name,),
    )
    return draw(np.zeros((200, 300, 3), np.uint8), found, **options)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("狗狗", "猫猫"),
        ("собака", "кошка"),
        ("כלב", "חתול"),
        ("כ", "ח"),
        ("\U0001f436", "\U0001f431"),
    ],
)
def test_two_names_never_look_the_same(one, other, monkeypatch):
    assert (drawn(one) != drawn(other)).any()
    fonts._best.cache_clear()
    monkeypatch.setattr(fonts, "_system_fonts", tuple)  # as on a system without fonts
    try:
        assert (drawn(one) != drawn(other)).any()
    finally:
        fonts._best.cache_clear()


def test_letters_without_a_glyph_are_spelled_and_named_once(monkeypatch, caplog):
    monkeypatch.setattr(fonts, "_system_fonts", tuple)
    fonts._best.cache_clear()
    fonts._warn.cache_clear()
    try:
        for _ in range(2):
            _, texts = fonts.fitting_font(["狗 dog", "猫"], 14)
        assert texts == ("<72D7> dog", "<732B>")
        assert caplog.text.count("no font here has the letters 狗猫") == 1
    finally:
        fonts._best.cache_clear()


def test_a_font_can_be_given(tmp_path):
    (tmp_path / "not.ttf").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"not\.ttf is not a font that can be read"):
        drawn("dog", font=str(tmp_path / "not.ttf"))


def test_plain_names_are_written_as_ever():
    from PIL import ImageFont

    font, texts = fonts.fitting_font(["dog 1  0.98"], 14)
    assert texts == ("dog 1  0.98",)
    assert bytes(font.getmask("dog")) == bytes(ImageFont.load_default(14).getmask("dog"))


def test_crowds_of_small_objects_keep_no_plates_over_them():
    side, count = 12, 60
    places = np.stack(np.meshgrid(np.arange(10), np.arange(6)), -1).reshape(-1, 2) * 20 + 4
    boxes = np.concatenate([places, places + side], 1).astype(np.float32)
    found = ImageDetections(
        boxes=boxes,
        scores=np.linspace(0.9, 0.5, count, dtype=np.float32),
        classes=np.zeros(count, np.int32),
        image_size=(130, 210),
        class_names=("cell",),
    )
    image = np.zeros((130, 210, 3), np.uint8)
    bare = draw(image, found, show_labels=False)
    labelled = draw(image, found)
    assert count > objects.CROWDED
    covered = 0
    for x0, y0, x1, y1 in boxes.astype(int):
        changed = (bare != labelled)[y0 : y1 + 1, x0 : x1 + 1].any(-1)
        covered += changed.mean() > 0.6
    assert covered == 0
