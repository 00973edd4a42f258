"""Canvases hold every image; training, evaluation and prediction choose and fill them alike."""

import dataclasses

import numpy as np
import pytest

from segjax.data.build import open_records
from segjax.data.canvas import assign_canvases, derive_canvases, fit
from segjax.data.config import DataConfig
from segjax.data.images import decode_image
from segjax.data.pipeline import eval_iterator, open_dataset
from segjax.data.transforms import NoResize, ShortSide
from tests.support.samples import annotation, content, make_folder

COCO = DataConfig()


def sizes(*pairs):
    return np.array(pairs, np.int64)


def test_orientation_canvases():
    found = derive_canvases(sizes((480, 640), (640, 480), (333, 1000), (500, 500)), COCO)
    assert found == ((800, 1344), (1088, 800))
    canvas = assign_canvases(sizes((480, 640), (640, 480), (500, 500)), found, COCO)
    # A square image goes to the canvas with the least padding.
    assert canvas.tolist() == [0, 1, 1]


def test_one_canvas_where_shapes_hardly_differ():
    config = DataConfig(resize="none")
    assert derive_canvases(sizes((128, 128)), config) == ((128, 128),)
    assert derive_canvases(sizes((250, 256), (256, 250)), config) == ((256, 256),)
    assert derive_canvases(sizes((100, 256), (256, 100)), config) == ((128, 256), (256, 128))


def test_chosen_canvases_must_fit():
    config = DataConfig(resize="none", buckets=((64, 64), (128, 128)))
    assert derive_canvases(sizes((60, 60)), config) == config.buckets
    canvas = assign_canvases(sizes((60, 60), (65, 10)), config.buckets, config)
    assert canvas.tolist() == [0, 1]
    with pytest.raises(ValueError, match="129 x 10"):
        assign_canvases(sizes((60, 60), (129, 10)), config.buckets, config)


def test_canvases_hold_every_scale():
    config = DataConfig(short_side=(640, 800), eval_short_side=900, long_side=1600)
    assert derive_canvases(sizes((500, 500)), config) == ((928, 928),)


@dataclasses.dataclass(frozen=True)
class Crop:
    """Crops to the left half in training."""

    def __call__(self, example, rng):
        if rng is None:
            return example
        return dataclasses.replace(example, image=example.image[:, : example.size[1] // 2])

    def sizes(self, height, width):
        return ((height, width // 2), (height, width))


def test_canvases_follow_the_transforms():
    config = DataConfig(transforms=(Crop(), ShortSide((64, 96), 1000), NoResize()))
    # 50 x 100 is cropped to 50 x 50 or kept, then resized to at most 96 x 96 or 96 x 192.
    assert derive_canvases(sizes((50, 100)), config) == ((96, 192),)
    narrow = dataclasses.replace(config, transforms=(ShortSide((64, 96), 100),))
    assert derive_canvases(sizes((50, 100)), narrow) == ((64, 128),)


@pytest.mark.parametrize("buckets", [None, ((96, 160), (160, 96))])
@pytest.mark.parametrize("resize", ["shortest_edge", "fit", "stretch", "none"])
def test_evaluation_and_prediction_see_the_same_pixels(tmp_path, resize, buckets):
    images = [(1, 24, 40), (2, 40, 24), (3, 30, 30)]
    config = make_folder(tmp_path, content(images, [annotation(1, 1, (2, 2, 9, 9))]))
    config = dataclasses.replace(
        config,
        resize=resize,
        size=(70, 80),
        short_side=(50, 60),
        eval_short_side=55,
        long_side=90,
        buckets=buckets,
    )
    dataset = open_dataset(config)
    records = {int(r["image/id"]): r for r in open_records(dataset.split("val"))}
    count = 0
    for batch in eval_iterator(dataset, "val", config):
        for row in np.flatnonzero(batch["example_valid"]):
            stored = decode_image(records[int(batch["image_ids"][row])]["image"])
            padded, (height, width) = fit(stored, config, config.size_divisor)
            assert batch["image_sizes"][row].tolist() == [height, width]
            seen = batch["images"][row]
            if buckets is not None:
                assert padded.shape == seen.shape
            np.testing.assert_array_equal(seen[:height, :width], padded[:height, :width])
            assert not padded[height:].any() and not padded[:, width:].any()
            count += 1
    assert count == 3
