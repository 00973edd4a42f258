import dataclasses
import json

import cv2
import numpy as np
import pytest

from segjax.data import rle
from segjax.data.canvas import fit
from segjax.data.config import DataConfig
from segjax.figure_ground.refine import MaskRefinement
from segjax.ops.anchors import level_stride
from segjax.predict.files import predict_files, read_image
from segjax.predict.predictor import Predictor, predict
from segjax.protocols import Padding
from segjax.results.classes import Classes
from tests.support import fakes

DATA = DataConfig(short_side=(83,), long_side=140)


@pytest.fixture(scope="module")
def predictor():
    return Predictor(
        model=fakes.OracleModel(),
        variables=fakes.oracle_variables(),
        classes=Classes(("disc", "box", "none"), fakes.CATEGORY_IDS),
        data=DATA,
    )


@pytest.mark.parametrize("number", range(len(fakes.SIZES)))
def test_objects_come_back_in_original_pixels(predictor, number):
    found = predictor(fakes.image_of(number))
    truth = fakes.masks_of(number)
    assert len(found) == len(truth)
    for i, (category, mask) in enumerate(truth):
        assert fakes.CATEGORY_IDS[found.classes[i]] == category
        np.testing.assert_allclose(found.boxes[i], rle.to_bbox(rle.encode(mask)), atol=1e-3)
        assert (found.mask(i) & mask).sum() / (found.mask(i) | mask).sum() > 0.95
    if truth:
        assert found.names[:2] == ["disc", "box"]


@pytest.mark.parametrize("channels", [None, 1, 4])
def test_gray_and_transparent_pictures(predictor, channels):
    rgb = fakes.image_of(1)
    image = rgb[..., 0] if channels is None else np.repeat(rgb[..., :1], channels, axis=2)
    np.testing.assert_array_equal(predictor(image).boxes, predictor(rgb).boxes)


def test_refined_masks_follow_the_contours_of_the_picture(predictor):
    image, truth = fakes.image_of(2), [mask for _, mask in fakes.masks_of(2)]
    for channel, mask in zip((1, 2, 1), truth, strict=True):
        image[mask, channel] = 220  # the oracle looks at red alone
    masks = predictor.variables["masks"]
    coarse = masks.reshape(*masks.shape[:2], 2, 56, 2, 56).mean((3, 5))
    blurred = dataclasses.replace(predictor, variables=predictor.variables | {"masks": coarse})
    refined = dataclasses.replace(blurred, refine=MaskRefinement())
    before, after = (
        [(f.mask(i) & m).sum() / (f.mask(i) | m).sum() for i, m in enumerate(truth)]
        for f in (blurred(image), refined(image))
    )
    # The box's contour goes across the disc, so that is left out.
    assert max(before[1:]) < 0.92 and min(after[1:]) > 0.97, (before, after)
    np.testing.assert_array_equal(refined(image).boxes, blurred(image).boxes)


def test_models_without_masks_have_none_to_refine(predictor):
    model = fakes.OracleModel(masks=False)
    boxes_alone = dataclasses.replace(predictor, model=model, refine=MaskRefinement())
    with pytest.raises(ValueError, match="no masks to refine"):
        boxes_alone(fakes.image_of(0))


def test_the_function_equals_the_class(predictor):
    found = predict(
        predictor.model,
        predictor.variables,
        fakes.image_of(0),
        classes=predictor.classes,
        data=DATA,
        score_threshold=0.75,
        max_detections=5,
    )
    assert found.names == ["disc", "box"]
    assert found.image_size == fakes.SIZES[0]


@pytest.mark.parametrize(
    ("resize", "size", "canvas"),
    [
        ("shortest_edge", (60, 90), (128, 128)),
        ("shortest_edge", (200, 1000), (128, 256)),
        ("none", (1, 1), (128, 128)),
        ("none", (130, 5), (256, 128)),
        ("stretch", (60, 90), (128, 128)),
    ],
)
def test_few_canvases_for_many_sizes(resize, size, canvas):
    data = DataConfig(short_side=(83,), long_side=140, resize=resize, size=(100, 100))
    model = fakes.OracleModel()
    divisor = Predictor(model, {}, data=data)._divisor
    padded, inside = fit(np.full((*size, 3), 9, np.uint8), data, divisor)
    assert padded.shape == (*canvas, 3)
    assert (padded[: inside[0], : inside[1]] == 9).all()
    assert not padded[inside[0] :].any()


@pytest.mark.parametrize(
    ("from_shape", "canvases"),
    [(True, [(64, 96), (96, 160), (96, 96)]), (False, [(128, 128), (128, 256), (128, 128)])],
)
def test_padding_is_torchvisions_where_anchors_depend_on_it(from_shape, canvases):
    model = fakes.OracleModel(padding=Padding(32, exact=from_shape))
    predictor = Predictor(model, {}, data=DataConfig(resize="none"))
    sizes = [(60, 90), (83, 140), (96, 96)]
    made = [
        fit(np.zeros((*size, 3), np.uint8), predictor.data, predictor._divisor)[0] for size in sizes
    ]
    assert [padded.shape[:2] for padded in made] == canvases
    # Then the stride of the coarsest anchors is that of torchvision's padded image.
    padded = made[0]
    cells = (-(-canvases[0][0] // 64), -(-canvases[0][1] // 64))
    strides = level_stride(padded.shape[:2], cells, 64, from_shape)
    assert tuple(strides) == ((64, 48) if from_shape else (64, 64))


def test_buckets_are_used_where_the_image_fits():
    data = DataConfig(short_side=(83,), long_side=140, buckets=((96, 160), (160, 96)))
    data = dataclasses.replace(data, resize="none")
    divisor = Predictor(fakes.OracleModel(), {}, data=data)._divisor
    for size, canvas in (
        ((83, 125), (96, 160)),
        ((83, 83), (96, 160)),
        ((83, 170), (128, 256)),
    ):
        padded, inside = fit(np.zeros((*size, 3), np.uint8), data, divisor)
        assert (padded.shape[:2], inside) == (canvas, size)


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 5, 2), (5,)])
def test_wrong_arrays_are_refused(predictor, shape):
    with pytest.raises(ValueError, match="wanted uint8"):
        predictor(np.zeros(shape, np.uint8)) if len(shape) > 1 else predictor(
            np.zeros((5, 5, 3), np.float32)
        )


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "in"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.jpg", "more/a.png")):
        cv2.imwrite(str(folder / name), fakes.image_of(number))
    (folder / "broken.jpg").write_bytes(b"no picture at all")
    return folder


def test_files_give_overlays_and_one_results_file(predictor, pictures, tmp_path):
    out = tmp_path / "out"
    paths = [pictures, pictures / "more" / "a.png", pictures / "missing.png"]
    report = predict_files(predictor, paths, out, score_threshold=0.75, progress=True)
    assert sorted(path.name for path in out.iterdir()) == [
        "a_2_instances.png",
        "a_instances.png",
        "b_instances.jpg",
        "detections.json",
    ]
    assert list(report.counts.values()) == [2, 2, 2]
    assert read_image(out / "b_instances.jpg").shape == (450, 300, 3)  # 5 times 90 x 60
    entries = json.loads((out / "detections.json").read_text())
    assert len(entries) == 9  # all of them, drawn or not
    assert entries[0]["file_name"] == "a.png"
    assert {entry["category_id"] for entry in entries} == {3, 17}
    assert rle.decode(entries[0]["segmentation"]).shape == fakes.SIZES[0]


def test_unreadable_files_are_named_and_do_not_stop_the_others(predictor, pictures, tmp_path):
    (tmp_path / "nothing").mkdir()
    paths = [pictures / "broken.jpg", tmp_path / "nothing", pictures / "a.png", pictures / "no.png"]
    report = predict_files(predictor, paths, tmp_path / "out")
    assert {path.name for path in report.failed} == {"broken.jpg", "nothing", "no.png"}
    assert [path.name for path in report.counts] == ["a.png"]
    lines = report.text().splitlines()
    assert lines[0].startswith("1 pictures, 3 objects drawn")
    assert lines[1] == "3 could not be read:"
    assert any("broken.jpg: is not an image" in line for line in lines)
    assert any("nothing: a folder without pictures" in line for line in lines)


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (("000000391895.png", "7.png"), [391895, 7]),
        (("1.png", "01.png"), [1, 2]),
        (("x.png", "7.png"), [1, 2]),
    ],
)
def test_image_ids_are_the_files_numbers_if_they_have_any(predictor, tmp_path, names, ids):
    for name in names:
        cv2.imwrite(str(tmp_path / name), fakes.image_of(0))
    report = predict_files(predictor, [tmp_path / name for name in names], tmp_path / "out")
    entries = json.loads(report.results_json.read_text())
    assert list(dict.fromkeys(entry["image_id"] for entry in entries)) == ids
