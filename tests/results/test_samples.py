import dataclasses
import re

import numpy as np
import pytest
from PIL import Image

from segjax import cli
from segjax.data.config import DataConfig
from segjax.data.dataset import open_dataset
from segjax.data.samples import samples
from segjax.data.truth import objects_of
from segjax.results.samples import _annotated, _in_row, browse
from tests.support import fakes


@pytest.fixture
def config(tmp_path):
    fakes.write_folder(tmp_path / "data")
    return DataConfig(
        root=str(tmp_path / "data"),
        cache_dir=str(tmp_path / "cache"),
        short_side=(96,),
        long_side=160,
        filter_empty=False,
    )


def test_objects_are_those_of_the_annotations(config):
    dataset = open_dataset(config)
    for sample in samples(dataset, "val", config, number=9):
        number = int(re.findall(r"\d+", sample.name)[0])
        np.testing.assert_array_equal(sample.image, fakes.image_of(number))
        found = _annotated(objects_of(sample.record), ("a", "b", "c"), dataset.category_ids)
        truth = fakes.masks_of(number)
        assert [fakes.CATEGORY_IDS[k] for k in found.classes] == [k for k, _ in truth]
        for i, (_, mask) in enumerate(truth):
            np.testing.assert_array_equal(found.mask(i), mask)


@pytest.mark.parametrize("frame", ["box", "image"])
def test_augmented_masks_lie_on_the_augmented_picture(config, frame, tmp_path):
    # The object is drawn into the picture, so that its pixels say where the mask must be.
    for split in ("train", "val"):
        for number in range(len(fakes.SIZES)):
            picture = fakes.image_of(number)
            for _, mask in fakes.masks_of(number)[:1]:
                picture[mask] = 255
            Image.fromarray(picture).save(tmp_path / "data" / split / f"picture {number}.png")
    config = dataclasses.replace(config, mask_frame=frame)
    dataset = open_dataset(config)
    seen = 0
    for sample in samples(dataset, "train", config, number=9, copies=4):
        for row in sample.rows:
            found = _in_row(row, dataset.class_names * 2)
            assert found.image_size == row.image.shape[:2]
            for i in np.flatnonzero(found.classes == 0).tolist():
                drawn = row.image[..., 0] > 150
                mask = found.mask(i)
                assert (mask & drawn).sum() / (mask | drawn).sum() > 0.93
                seen += 1
    assert seen == 16


def test_a_page_shows_the_pictures(config, tmp_path):
    made = browse(config, tmp_path / "out", number=3, copies=2, seed=1)
    assert made.total == len(fakes.SIZES)
    assert len(made.pictures) == 3 * 3
    page = made.page.read_text()
    assert page.count("<img") == 9
    for path in made.pictures:
        assert f'src="{path.name}"' in page
        assert min(Image.open(path).size) > 100  # small pictures are enlarged
    again = browse(config, tmp_path / "again", number=3, copies=2, seed=1)
    for one, other in zip(made.pictures, again.pictures, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_the_command_takes_a_recipe_and_fields(config, tmp_path, capsys):
    arguments = ["browse", config.root, "--out", str(tmp_path / "out"), "--number", "1"]
    fields = [f"--data.cache-dir={config.cache_dir}", "--data.size", "64", "80"]
    assert cli.main([*arguments, "--config", "lite_coco_format", *fields]) == 0
    assert "4 pictures of train, 5 images" in capsys.readouterr().out
    assert cli.main([*arguments, "--split", "val", *fields]) == 0
    assert "1 pictures of val, 5 images" in capsys.readouterr().out
    assert cli.main([*arguments, "--split", "other", *fields]) == 1
