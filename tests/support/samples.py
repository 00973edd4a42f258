"""Small COCO folders for tests."""

import io
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

from segjax.data.config import DataConfig

SHARED = Path(
    os.environ.get("SEGJAX_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data"
)


def encoded(array, form="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, form, **options)
    return file.getvalue()


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def annotation(number, image_id, bbox, category_id=7, crowd=0, segmentation=None):
    x, y, w, h = bbox
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": list(bbox),
        "area": w * h,
        "iscrowd": crowd,
        "segmentation": segmentation or [[x, y, x + w, y, x + w, y + h, x, y + h]],
    }


def content(images, annotations, categories=((3, "cat"), (7, "dog"))):
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": h, "width": w} for i, h, w in images
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in categories],
    }


def write_split(root, split, data):
    """Writes the annotation file, and a random image for every record with a file name."""
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(data))
    for image in data["images"]:
        pixels = encoded(picture(image["height"], image["width"], image["id"]))
        (folder / image["file_name"]).write_bytes(pixels)


def make_folder(root, train, val=None):
    """Writes a folder in COCO format and returns a config for it."""
    write_split(root, "train", train)
    write_split(root, "val", val or train)
    return DataConfig(
        root=str(root),
        cache_dir=str(root / "cache"),
        resize="none",
        batch_size=2,
        eval_batch_size=2,
        max_instances=6,
        mask_size=16,
        flip=False,
    )
