"""Image, boxes and masks are transformed together."""

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from segjax.data import rle, transforms
from segjax.data.config import DataConfig
from segjax.data.rows import make_row
from tests.support.samples import encoded

CONFIG = DataConfig(resize="none", mask_frame="image", flip=True, max_instances=4)


def record(mask_list, crowds=None, image=None, boxes=None):
    """Makes a record whose image shows the union of the masks in white."""
    height, width = mask_list[0].shape
    rles = [rle.encode(mask) for mask in mask_list]
    corners = [rle.to_bbox(r) for r in rles]
    if image is None:
        image = np.repeat(np.any(mask_list, axis=0)[..., None] * np.uint8(255), 3, axis=2)
    return {
        "image": encoded(image),
        "image/id": 11,
        "image/height": height,
        "image/width": width,
        "image/orientation": 1,
        "objects": {
            "bbox": boxes or [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in corners],
            "label": [i % 3 for i in range(len(rles))],
            "is_crowd": crowds or [False] * len(rles),
            "area": [float(mask.sum()) for mask in mask_list],
            "segmentation": [
                r["counts"].encode() if m.any() else b""
                for r, m in zip(rles, mask_list, strict=True)
            ],
        },
    }


def block(height, width, x0, y0, x1, y1):
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = True
    return mask


@given(st.integers(8, 40), st.integers(8, 40), st.booleans(), st.integers(10, 70), st.data())
def test_image_masks_and_boxes_stay_aligned(height, width, flip, short_side, data):
    x0, y0 = data.draw(st.integers(0, width - 3)), data.draw(st.integers(0, height - 3))
    x1, y1 = data.draw(st.integers(x0 + 2, width)), data.draw(st.integers(y0 + 2, height))
    # A mask thinner than a result pixel may fall between samples, as it does in the peers.
    assume(min(x1 - x0, y1 - y0) * short_side >= min(height, width) + 1)
    mask = block(height, width, x0, y0, x1, y1)
    config = dataclasses.replace(
        CONFIG, resize="shortest_edge", short_side=(short_side,), long_side=10_000
    )
    seed = next(s for s in range(99) if _flips(s) == flip)
    made = make_row(record([mask]), np.random.default_rng(seed), config)
    new_height, new_width = made.image.shape[:2]
    assert min(new_height, new_width) == short_side
    # The box matches its mask to within the pixel that nearest sampling may lose.
    bounds = np.array(rle.to_bbox(rle.encode(made.masks[0])))
    scale = max(new_height / height, new_width / width)
    assert np.abs(bounds - made.boxes[0]).max() <= 1.0
    # The image shows the same; grey differs only along edges, within one source pixel.
    difference = np.abs(made.image[..., 0] / 255.0 - made.masks[0]) > 0.5
    outline = 2 * (made.boxes[0, 2:] - made.boxes[0, :2]).sum()
    assert difference.sum() <= outline * max(scale, 1.0) / 2 + 4


def _flips(seed):
    rng = np.random.default_rng(seed)
    rng.choice(np.asarray((800,)))
    return bool(rng.random() < 0.5)


def test_flip_is_exact():
    mask = np.random.default_rng(0).random((20, 30)) < 0.5
    image = np.random.default_rng(1).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    plain, flipped = (
        make_row(record([mask], image=image), np.random.default_rng(seed), CONFIG)
        for seed in (next(s for s in range(9) if _flips(s) == f) for f in (False, True))
    )
    np.testing.assert_array_equal(flipped.image, image[:, ::-1])
    np.testing.assert_array_equal(flipped.masks[0], mask[:, ::-1])
    np.testing.assert_array_equal(plain.masks[0], mask)
    np.testing.assert_allclose(flipped.boxes[:, [2, 0]], 30 - plain.boxes[:, [0, 2]])


def test_flip_can_be_switched_off():
    config = dataclasses.replace(CONFIG, flip=False)
    image = np.random.default_rng(1).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    source = record([block(8, 9, 1, 1, 4, 4)], image=image)
    for seed in range(8):
        made = make_row(source, np.random.default_rng(seed), config)
        np.testing.assert_array_equal(made.image, image)


@pytest.mark.parametrize(
    ("size", "rounding", "expected"),
    [
        ((480, 640), "nearest", (800, 1067)),
        ((480, 640), "floor", (800, 1066)),
        ((640, 480), "nearest", (1067, 800)),
        ((333, 1000), "nearest", (444, 1333)),
        ((333, 1000), "floor", (443, 1333)),
        ((1, 5000), "floor", (1, 1333)),
    ],
)
def test_peers_sizes(size, rounding, expected):
    resizing = transforms.ShortSide((800,), rounding=rounding)
    assert resizing.sizes(*size) == (expected,)


def test_fixed_sizes():
    for config, size in (
        (DataConfig(resize="fit", size=(64, 64)), (32, 64)),
        (DataConfig(resize="stretch", size=(64, 48)), (64, 48)),
        (DataConfig(resize="none"), (50, 100)),
    ):
        assert config.steps()[0].sizes(50, 100) == (size,)


def test_multi_scale_draws_every_side_and_evaluation_the_largest():
    config = dataclasses.replace(CONFIG, resize="shortest_edge", short_side=(10, 12, 14))
    source = record([block(20, 30, 2, 3, 20, 15)])
    sides = {make_row(source, np.random.default_rng(s), config).image.shape[0] for s in range(40)}
    assert sides == {10, 12, 14}
    assert make_row(source, None, config).image.shape[0] == 14
    fixed = dataclasses.replace(config, eval_short_side=16)
    assert make_row(source, None, fixed).image.shape[0] == 16


def test_pillow_antialiases_and_opencv_does_not():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::4] = 255
    smooth = transforms.resize_image(stripes, (16, 16), "pil")
    rough = transforms.resize_image(stripes, (16, 16), "cv2")
    assert abs(smooth.mean() - 64) < 8
    assert rough.max() == 0


def test_box_rasters_cover_the_box():
    config = dataclasses.replace(CONFIG, mask_frame="box", mask_size=8)
    mask = block(20, 30, 4, 2, 12, 18)
    mask[2:10, 4:8] = False
    made = make_row(record([mask]), None, config)
    expected = np.ones((8, 8), np.uint8)
    expected[:4, :4] = 0
    np.testing.assert_array_equal(made.masks[0], expected)
    assert make_row(record([mask]), None, dataclasses.replace(config, masks=False)).masks.shape == (
        1,
        1,
        1,
    )


def test_degenerate_boxes_and_missing_masks_are_counted():
    masks = [block(20, 30, 2, 2, 9, 9), block(20, 30, 2, 2, 9, 9), np.zeros((20, 30), bool)]
    boxes = [[2, 2, 7, 7], [2, 2, 0, 7], [2, 2, 7, 7]]
    made = make_row(record(masks, boxes=boxes), None, CONFIG)
    assert len(made.classes) == 1
    assert made.degenerate == 2
    no_masks = dataclasses.replace(CONFIG, masks=False)
    assert len(make_row(record(masks, boxes=boxes), None, no_masks).classes) == 2


def test_cap_drops_crowds_first_then_the_smallest():
    masks = [block(20, 30, 0, 0, n, n) for n in (9, 3, 12, 5, 7)]
    config = dataclasses.replace(CONFIG, max_instances=3)
    made = make_row(record(masks, [False, False, True, False, False]), None, config)
    assert made.truncated == 2
    assert not made.is_crowd.any()
    assert (made.boxes[:, 2] == [9, 5, 7]).all()
    roomy = make_row(
        record(masks, [False, False, True, False, False]),
        None,
        dataclasses.replace(CONFIG, max_instances=5),
    )
    assert roomy.truncated == 0
    assert roomy.is_crowd.sum() == 1


def test_boxes_are_clipped_to_the_image():
    made = make_row(record([block(20, 30, 5, 5, 30, 20)], boxes=[[5, 5, 40, 40]]), None, CONFIG)
    np.testing.assert_allclose(made.boxes[0], [5, 5, 30, 20])


# (short side, flipped, box) of twelve images, stored before transforms became values: runs started
# before that change continue with the same images.
DRAWN = [
    (672, True, [848.504638671875, 416.6400146484375, 901.5361328125, 461.44000244140625]),
    (672, True, [848.504638671875, 416.6400146484375, 901.5361328125, 461.44000244140625]),
    (800, True, [1010.1661376953125, 496.0, 1073.301513671875, 549.3333129882812]),
    (672, True, [848.504638671875, 416.6400146484375, 901.5361328125, 461.44000244140625]),
    (704, False, [72.7546157836914, 436.4800109863281, 128.2984619140625, 483.413330078125]),
    (768, False, [79.33615112304688, 476.1600036621094, 139.9046173095703, 527.3599853515625]),
    (768, True, [969.0953979492188, 476.1600036621094, 1029.663818359375, 527.3599853515625]),
    (736, True, [928.8984375, 456.32000732421875, 986.95458984375, 505.38665771484375]),
    (800, False, [82.6984634399414, 496.0, 145.83384704589844, 549.3333129882812]),
    (736, True, [928.8984375, 456.32000732421875, 986.95458984375, 505.38665771484375]),
    (640, False, [66.1015396118164, 396.79998779296875, 116.56615447998047, 439.4666748046875]),
    (672, False, [69.4638442993164, 416.6400146484375, 122.4953842163086, 461.44000244140625]),
]


def test_draws_are_those_of_stored_runs():
    config = DataConfig(short_side=(640, 672, 704, 736, 768, 800))
    height, width = 90, 130
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2] = 200
    box = [9.3, 55.8, 7.1, 6.0]
    source = record([block(height, width, 9, 56, 16, 62)], image=image, boxes=[box])
    for number, (side, flipped, corners) in enumerate(DRAWN):
        made = make_row(source, np.random.default_rng([7, 2, number]), config)
        assert min(made.image.shape[:2]) == side
        assert (made.image[0, 0, 0] == 0) == flipped
        np.testing.assert_allclose(made.boxes[0], corners, rtol=2e-6)
