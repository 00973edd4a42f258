import dataclasses
import functools
import http.server
import json
import shutil
import threading
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from segjax.data import rle
from segjax.data.canvas import fit
from segjax.data.config import DataConfig
from segjax.figure_ground.refine import MaskRefinement
from segjax.ops.anchors import level_stride
from segjax.predict.files import predict_files
from segjax.predict.images import as_image
from segjax.predict.predictor import Predictor, predict
from segjax.predict.sources import find_sources
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
        image[mask, channel] = 220  # the oracle looks only at red
    masks = predictor.variables["masks"]
    coarse = masks.reshape(*masks.shape[:2], 2, 56, 2, 56).mean((3, 5))
    blurred = dataclasses.replace(predictor, variables=predictor.variables | {"masks": coarse})
    refined = dataclasses.replace(blurred, refine=MaskRefinement())
    before, after = (
        [(f.mask(i) & m).sum() / (f.mask(i) | m).sum() for i, m in enumerate(truth)]
        for f in (blurred(image), refined(image))
    )
    # The box's contour crosses the disc, so the disc is skipped.
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
    # The stride of the coarsest anchors then matches torchvision's padded image.
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


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((0, 5, 3), np.uint8), "wanted .*at least one pixel"),
        (np.zeros((5, 5, 2), np.uint8), r"image is uint8 \(5, 5, 2\): wanted \[h, w\]"),
        (np.full((5, 5, 3), 200, np.float32), "values 200..200: wanted floats in 0..1, or uint8"),
        (np.full((5, 5, 3), -1), "int64 with values -1..-1: wanted uint8"),
        ({"image": 3}, "a picture is a dict: wanted a path, a URL, a PIL image or an array"),
    ],
)
def test_what_is_no_picture_is_refused(predictor, image, words):
    with pytest.raises(ValueError, match=words):
        predictor(image)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_detections": -1}, "max_detections is -1: wanted 0 or more"),
        ({"score_threshold": float("nan")}, "score_threshold is nan: wanted a number in 0..1"),
    ],
)
def test_nonsense_limits_are_refused(predictor, limits, words):
    with pytest.raises(ValueError, match=words):
        predictor(fakes.image_of(0), **limits)


def test_pictures_of_every_usual_kind_are_the_same_picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    path = tmp_path / "x.png"
    Image.fromarray(pixels).save(path)
    for source in (
        path,
        str(path),
        Image.open(path),
        pixels,
        pixels.transpose(2, 0, 1),
        np.concatenate([pixels, pixels[..., :1]], axis=2),
        jnp.asarray(pixels),
        pixels.astype(np.float32) / 255,
        pixels.astype(np.uint16) << 8,
        pixels.astype(np.int64),
    ):
        np.testing.assert_array_equal(as_image(source), pixels)
    gray = pixels[..., 0]
    for source in (gray, gray[..., None], gray[None]):
        np.testing.assert_array_equal(as_image(source), np.repeat(gray[..., None], 3, 2))
    np.testing.assert_array_equal(as_image(gray > 9)[..., 1], (gray > 9) * 255)


def test_photographs_are_turned_upright(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    for source in (tmp_path / "x.png", Image.open(tmp_path / "x.png")):
        np.testing.assert_array_equal(as_image(source), np.rot90(pixels, -1))


def test_addresses_are_fetched_if_they_are_of_pictures(tmp_path):
    Image.fromarray(np.full((4, 5, 3), 9, np.uint8)).save(tmp_path / "x.png")
    (tmp_path / "x.html").write_text("hello")
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        assert as_image(f"{base}/x.png").shape == (4, 5, 3)
        with pytest.raises(ValueError, match=r"x\.html is text/html, wanted an image"):
            as_image(f"{base}/x.html")
        with pytest.raises(OSError, match="404"):
            as_image(f"{base}/y.png")
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_several_pictures_give_a_list(predictor):
    one = fakes.image_of(0)
    found = predictor([one, one])
    assert [len(objects) for objects in found] == [3, 3]
    assert len(predictor(np.stack([one, one]))) == 2


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
    assert report.skipped == {"sub-folders (--recursive looks into them)": 1}
    assert sorted(path.name for path in out.iterdir()) == [
        "a_2_instances.png",
        "a_instances.png",
        "b_instances.jpg",
        "detections.json",
    ]
    assert list(report.counts.values()) == [{"disc": 1, "box": 1}] * 3
    assert as_image(out / "b_instances.jpg").shape == (450, 300, 3)  # 5 times 90 x 60
    entries = json.loads((out / "detections.json").read_text())
    assert len(entries) == 9  # all objects, drawn or not
    names = list(dict.fromkeys(entry["file_name"] for entry in entries))
    assert names == ["in/a.png", "b.jpg", "more/a.png"]  # each name once
    assert {entry["category_id"] for entry in entries} == {3, 17}
    assert rle.decode(entries[0]["segmentation"]).shape == fakes.SIZES[0]


def test_unreadable_files_are_named_and_do_not_stop_the_others(predictor, pictures, tmp_path):
    (tmp_path / "nothing").mkdir()
    paths = [pictures / "broken.jpg", tmp_path / "nothing", pictures / "a.png", pictures / "no.png"]
    report = predict_files(predictor, paths, tmp_path / "out")
    assert {Path(path).name for path in report.failed} == {"broken.jpg", "nothing", "no.png"}
    assert list(report.counts) == ["a.png"]
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


def test_good_results_are_not_replaced_by_nothing(predictor, pictures, tmp_path):
    out = tmp_path / "out"
    predict_files(predictor, [pictures / "a.png"], out)
    before = (out / "detections.json").read_text()
    report = predict_files(predictor, [pictures / "broken.jpg"], out)
    assert report.results_json is None and report.failed
    assert (out / "detections.json").read_text() == before


def test_folders_as_people_have_them(pictures, tmp_path, monkeypatch):
    for name in ("._a.png", "notes.txt", "c.gif", "d.jfif"):
        shutil.copy(pictures / "a.png", pictures / name)
    found = find_sources([pictures])
    assert [s.name for s in found.sources] == ["a.png", "b.jpg", "broken.jpg", "c.gif", "d.jfif"]
    assert found.skipped == {
        "hidden files, such as macOS's ._ companions": 1,
        "files that are not pictures by their ending": 1,
        "sub-folders (--recursive looks into them)": 1,
    }
    deep = find_sources([pictures], recursive=True).sources
    assert {s.name for s in deep} >= {"in/a.png", "more/a.png", "b.jpg"}
    patterns = find_sources([str(pictures / "*.png"), str(pictures / "*.xyz")])
    assert [s.name for s in patterns.sources] == ["a.png"]
    assert list(patterns.failed.values()) == ["a pattern that no file matches"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [s.name for s in find_sources(["~/in/b.jpg"]).sources] == ["b.jpg"]
    urls = find_sources(["https://a.org/x/1.png?size=3", "https://a.org/y/1.png"]).sources
    assert [s.name for s in urls] == ["x/1.png", "y/1.png"]


def test_own_drawings_are_not_predicted_on_again(predictor, pictures):
    (pictures / "holiday_instances.png").write_bytes((pictures / "a.png").read_bytes())
    for _ in range(2):
        report = predict_files(predictor, [pictures], pictures)
        assert sorted(report.counts) == ["a.png", "b.jpg", "holiday_instances.png"]
    assert report.skipped["drawings of an earlier run"] == 3


def test_objects_of_some_classes_alone(predictor, pictures, tmp_path):
    report = predict_files(predictor, [pictures / "a.png"], tmp_path / "out", classes=["box"])
    assert report.counts == {"a.png": {"box": 2}}
    assert {e["category_id"] for e in json.loads(report.results_json.read_text())} == {
        fakes.CATEGORY_IDS[1]
    }
    with pytest.raises(ValueError, match="no class 'cow': it has disc, box, none"):
        predict_files(predictor, [pictures], tmp_path / "out", classes=["cow"])


def test_videos_are_drawn_and_counted_frame_by_frame(predictor, tmp_path):
    path = tmp_path / "film.mp4"
    height, width = fakes.SIZES[0]
    film = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (width, height))
    for _ in range(5):
        film.write(fakes.image_of(0)[..., ::-1])
    film.release()
    report = predict_files(predictor, [path], tmp_path / "out", stride=2)
    assert list(report.counts) == ["film.mp4#1", "film.mp4#3", "film.mp4#5"]
    drawn = cv2.VideoCapture(str(tmp_path / "out/film_instances.mp4"))
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert drawn.get(cv2.CAP_PROP_FPS) == 5
    entries = json.loads(report.results_json.read_text())
    assert {entry["image_id"] for entry in entries} == {1, 2, 3}
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    report = predict_files(predictor, [tmp_path / "broken.mp4"], tmp_path / "out")
    assert list(report.failed.values()) == ["is not a video that OpenCV can open"]


def test_objects_are_saved_in_other_forms(predictor, pictures, tmp_path):
    out = tmp_path / "out"
    report = predict_files(predictor, [pictures], out, save=["csv", "yolo", "coco"])
    assert {path.name for path in report.maps} == {"detections.csv", "labels", "coco.json"}
    rows = (out / "detections.csv").read_text().splitlines()
    assert len(rows) == 1 + sum(sum(counts.values()) for counts in report.counts.values())
    with pytest.raises(ValueError, match="cannot save pdf"):
        predict_files(predictor, [pictures], out, save=["pdf"])
