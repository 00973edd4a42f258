"""The TFDS dataset, built from a folder and from COCO's archives over HTTP, without TensorFlow."""

import dataclasses
import functools
import http.server
import io
import json
import os
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest

from segjax.data import rle
from segjax.data.build import SegjaxCoco, open_records, prepare
from segjax.data.coco import CocoError
from segjax.data.config import DataConfig
from segjax.data.images import decode_labels
from segjax.data.labels import stuffthingmaps
from segjax.data.labels.stuffthingmaps import STUFF_NAMES
from segjax.data.pipeline import open_dataset
from tests.support.samples import SHARED, annotation, content, encoded, make_folder, picture


def data():
    annotations = [
        {**annotation(1, 20, (1.25, 2.5, 8.5, 9.75), 9), "area": 77.125},
        annotation(2, 20, (3, 3, 4, 4), 2, 1),
        annotation(3, 10, (0, 0, 6, 6), 2),
    ]
    images = [(20, 16, 24), (10, 24, 16), (30, 16, 16)]
    return content(images, annotations, [(9, "dog"), (2, "cat")])


def test_records_hold_the_file_as_it_is(tmp_path):
    config = make_folder(tmp_path, data())
    prepared = prepare(config)
    assert [(c.id, c.name) for c in prepared.categories] == [(2, "cat"), (9, "dog")]
    split = prepared.splits["train"]
    assert split.index.tolist() == [
        [10, 24, 16, 1, 0, 1],
        [20, 16, 24, 1, 1, 1],
        [30, 16, 16, 0, 0, 0],
    ]
    records = open_records(split)
    assert len(records) == 3
    assert records[1]["image"] == (tmp_path / "train" / "20.png").read_bytes()
    objects = records[1]["objects"]
    np.testing.assert_array_equal(objects["bbox"][0], [1.25, 2.5, 8.5, 9.75])
    assert objects["area"][0] == 77.125
    assert [int(label) for label in objects["label"]] == [1, 0]
    assert [int(number) for number in objects["category_id"]] == [9, 2]
    assert [bool(crowd) for crowd in objects["is_crowd"]] == [False, True]
    mask = rle.decode({"size": [16, 24], "counts": objects["segmentation"][1].decode()})
    assert mask.sum() == 16
    assert records[2]["objects"]["segmentation"] == []
    assert split.annotated


def test_is_built_once_and_again_after_a_change(tmp_path):
    config = make_folder(tmp_path, data())
    first = prepare(config)
    assert prepare(config).fingerprint == first.fingerprint
    built = os.listdir(tmp_path / "cache")
    changed = data()
    changed["annotations"].pop()
    path = tmp_path / "annotations" / "instances_train.json"
    path.write_text(json.dumps(changed))
    second = prepare(config)
    assert second.splits["train"].index[0, 3] == 0
    assert len(os.listdir(tmp_path / "cache")) > len(built)
    (tmp_path / "val" / "10.png").write_bytes(encoded(picture(24, 16, seed=5)))
    third = prepare(config)
    assert len({first.fingerprint, second.fingerprint, third.fingerprint}) == 3


def test_a_build_that_was_interrupted_is_done_again(tmp_path):
    config = make_folder(tmp_path, data())
    prepare(config)
    (marker,) = (tmp_path / "cache").glob("*/segjax.json")
    marker.unlink()
    next(marker.parent.rglob("*.array_record*")).write_bytes(b"half")
    assert len(open_records(prepare(config).splits["train"])) == 3


def test_bad_images_stop_or_are_left_out(tmp_path):
    config = make_folder(tmp_path, data())
    whole = (tmp_path / "train" / "10.png").read_bytes()
    (tmp_path / "train" / "10.png").write_bytes(whole[:200])
    with pytest.raises(CocoError, match=r'image 10 \(10.png\).*on_bad_image="skip"'):
        prepare(config)
    skipping = dataclasses.replace(config, on_bad_image="skip")
    split = prepare(skipping).splits["train"]
    assert split.index[:, 0].tolist() == [20, 30]
    assert any("bad_image: 1" in line for line in split.problems)
    assert split.skipped == 1
    for name in ("20.png", "30.png"):
        (tmp_path / "train" / name).write_bytes(whole[:200])
    split = prepare(skipping).splits["train"]
    assert (len(split.index), split.skipped, len(open_records(split))) == (0, 3, 0)


def test_splits_must_agree_on_categories(tmp_path):
    other = content([(1, 16, 16)], [], [(9, "wolf")])
    config = make_folder(tmp_path, data(), other)
    with pytest.raises(CocoError, match='category 9 is "dog" in one split and "wolf"'):
        prepare(config)
    more = content([(1, 16, 16)], [], [(9, "dog"), (11, "bird")])
    config = make_folder(tmp_path, data(), more)
    assert [c.name for c in prepare(config).categories] == ["cat", "dog", "bird"]


@pytest.fixture
def coco_server(tmp_path):
    """Serves small archives with COCO's names and layout on the loopback interface."""
    site = tmp_path / "site"
    (site / "zips").mkdir(parents=True)
    (site / "annotations").mkdir()
    listing = zipfile.ZipFile(site / "annotations" / "annotations_trainval2017.zip", "w")
    for split in ("train", "val"):
        with zipfile.ZipFile(site / "zips" / f"{split}2017.zip", "w") as archive:
            for image in data()["images"]:
                pixels = encoded(picture(image["height"], image["width"], image["id"]))
                archive.writestr(f"{split}2017/{image['file_name']}", pixels)
        listing.writestr(f"annotations/instances_{split}2017.json", json.dumps(data()))
        listing.writestr(f"annotations/captions_{split}2017.json", "{}")
    listing.close()
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            requests.append(args)

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(site))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


def test_2017_from_archives(tmp_path, coco_server):
    url, requests = coco_server
    config = DataConfig(name="2017", base_url=url, cache_dir=str(tmp_path / "cache"))
    dataset = open_dataset(config)
    assert dataset.class_names == ("cat", "dog")
    assert set(dataset.splits) == {"train", "val"}
    record = open_records(dataset.splits["val"])[1]
    assert record["image"] == encoded(picture(16, 24, 20))
    assert dataset.instances("val").images[20].areas.tolist() == [77.125, 16.0]
    count = len(requests)
    assert open_dataset(config).fingerprint == dataset.fingerprint
    assert len(requests) == count


def test_bad_images_of_2017_stop_or_are_left_out(tmp_path, coco_server):
    url, _ = coco_server
    archive = tmp_path / "site" / "zips" / "val2017.zip"
    with zipfile.ZipFile(archive) as source:
        files = {name: source.read(name) for name in source.namelist()}
    files["val2017/20.png"] = files["val2017/20.png"][:200]
    with zipfile.ZipFile(archive, "w") as damaged:
        for name, content_of_file in files.items():
            damaged.writestr(name, content_of_file)
    config = DataConfig(name="2017", base_url=url, cache_dir=str(tmp_path / "cache"))
    with pytest.raises(CocoError, match=r"image 20 \(20.png\)"):
        open_dataset(config)
    splits = open_dataset(dataclasses.replace(config, on_bad_image="skip")).splits
    assert splits["val"].index[:, 0].tolist() == [10, 30]
    assert (splits["train"].skipped, splits["val"].skipped) == (0, 1)


def archive(files):
    """Returns the bytes of a zip file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for name, held in files.items():
            opened.writestr(name, held)
    return file.getvalue()


def labels_of_2017(image):
    """Returns a map of labels 0 and 1, which are panoptic categories 1 and 5."""
    labels = np.zeros((image["height"], image["width"]), np.uint8)
    labels[3:9, 2 : 5 + image["id"] % 7] = 1
    return labels


def panoptic_archive():
    """Returns an archive with COCO's layout: a json and an archive of PNGs per split."""
    files = {}
    for split in ("train", "val"):
        pngs, annotations = {}, []
        for image in data()["images"]:
            labels = labels_of_2017(image)
            ids = np.stack([labels + 1, labels * 0, labels * 0], axis=-1)
            pngs[f"panoptic_{split}2017/{image['id']}.png"] = encoded(ids)
            segments = [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 5}]
            file_name = f"{image['id']}.png"
            annotations.append(
                {"image_id": image["id"], "file_name": file_name, "segments_info": segments}
            )
        categories = [
            {"id": 1, "name": "cat", "isthing": 1},
            {"id": 5, "name": "sky", "isthing": 0},
        ]
        listing = {"images": [], "annotations": annotations, "categories": categories}
        files[f"annotations/panoptic_{split}2017.json"] = json.dumps(listing)
        files[f"annotations/panoptic_{split}2017.zip"] = archive(pngs)
    return archive(files)


def stuff_archive():
    return archive(
        {
            f"{split}2017/{image['id']}.png": encoded(labels_of_2017(image))
            for split in ("train", "val")
            for image in data()["images"]
        }
    )


@pytest.mark.parametrize(
    ("semantic", "names"),
    [
        ("panoptic", ("cat", "sky")),
        ("stuffthingmaps", STUFF_NAMES),
        ("instances", ("cat", "dog", "other")),
    ],
)
def test_labels_of_2017_from_archives(tmp_path, coco_server, monkeypatch, semantic, names):
    url, requests = coco_server
    monkeypatch.setattr(stuffthingmaps, "URL", f"{url}/elsewhere/stuff.zip")
    site = tmp_path / "site"
    (site / "elsewhere").mkdir()
    (site / "elsewhere" / "stuff.zip").write_bytes(stuff_archive())
    (site / "annotations" / "panoptic_annotations_trainval2017.zip").write_bytes(panoptic_archive())
    cache = tmp_path / "cache"
    config = DataConfig(name="2017", base_url=url, cache_dir=str(cache), semantic=semantic)
    dataset = open_dataset(config)
    assert (dataset.class_names, dataset.semantic_names) == (("cat", "dog"), names)
    for split in ("train", "val"):
        records = open_records(dataset.splits[split])
        assert len(records) == 3
        images = sorted(data()["images"], key=lambda image: image["id"])
        for record, image in zip(records, images, strict=True):
            labels = decode_labels(record["semantic"])
            if semantic == "instances":
                assert labels.max() == 2
            else:
                np.testing.assert_array_equal(labels, labels_of_2017(image))
    assert len(requests) == (3 if semantic == "instances" else 4)
    kept = [path for path in cache.rglob("*panoptic*") if "downloads" not in path.parts]
    assert not [path for path in kept if path.is_file()], "what was unpacked is gone"
    assert dataset.instances("val").images[20].areas.tolist() == [77.125, 16.0]
    bare = open_dataset(dataclasses.replace(config, semantic="none"))
    assert bare.fingerprint != dataset.fingerprint


def test_maps_of_2017_that_lie_in_a_folder_are_not_downloaded(tmp_path, coco_server):
    url, requests = coco_server
    with zipfile.ZipFile(io.BytesIO(stuff_archive())) as opened:
        opened.extractall(tmp_path / "maps")
    config = DataConfig(
        name="2017",
        base_url=url,
        cache_dir=str(tmp_path / "cache"),
        on_bad_image="skip",
        semantic="stuffthingmaps",
        semantic_root=str(tmp_path / "maps"),
    )
    record = open_records(open_dataset(config).splits["val"])[0]
    image = next(image for image in data()["images"] if image["id"] == 10)
    np.testing.assert_array_equal(decode_labels(record["semantic"]), labels_of_2017(image))
    assert len(requests) == 3
    (tmp_path / "maps/train2017/10.png").write_bytes(encoded(np.zeros((24, 16), np.uint8)))
    first = open_dataset(config).fingerprint
    assert first != open_dataset(dataclasses.replace(config, semantic="instances")).fingerprint
    (tmp_path / "maps/val2017/10.png").unlink()
    with pytest.raises(CocoError, match=r"no label map at .*val2017/10\.png"):
        open_dataset(config)


def test_2017_is_a_config_of_the_builder(tmp_path):
    builder = SegjaxCoco(config="2017", data_dir=str(tmp_path))
    assert builder.info.full_name.startswith("segjax_coco/2017/")
    assert builder.builder_config.data.base_url == "http://images.cocodataset.org"


def test_neither_tensorflow_nor_the_models_are_imported(tmp_path):
    config = make_folder(tmp_path, data())
    code = (
        "import sys; from segjax.data.config import DataConfig\n"
        "from segjax.data.pipeline import open_dataset, eval_iterator\n"
        f"config = DataConfig(root={config.root!r}, resize='none',\n"
        f"    cache_dir={config.cache_dir!r})\n"
        "with eval_iterator(open_dataset(config), 'val', config) as batches: next(batches)\n"
        "assert not {'tensorflow', 'flax', 'segjax.ops'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_real_photographs(tmp_path):
    if not (SHARED / "coco_ci").exists():
        pytest.skip(f"no {SHARED / 'coco_ci'}")
    config = DataConfig(root=str(SHARED / "coco_ci"), cache_dir=str(tmp_path))
    dataset = open_dataset(config)
    assert len(dataset.class_names) == 80
    assert dataset.category_ids[-1] == 90
    index = dataset.splits["train"].index
    assert len(index) == 24
    assert index[:, 3:].sum(axis=0).tolist() == [180, 2, 180]
