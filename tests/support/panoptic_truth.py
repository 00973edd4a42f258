"""Ground truth of the shared panoptic photographs, where available."""

import json

import numpy as np
import pytest
from PIL import Image

from segjax.data.segments import PanopticCategory, Segment
from tests.support.samples import SHARED

ROOT = SHARED / "coco_panoptic200"


def read(limit=None, split="val"):
    """Returns categories and (ids, segments) of the first `limit` images; skips if unavailable."""
    path = ROOT / "annotations" / f"panoptic_{split}.json"
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    content = json.loads(path.read_text())
    categories = [
        PanopticCategory(entry["id"], entry["name"], bool(entry["isthing"]))
        for entry in content["categories"]
    ]
    return categories, (_image(entry, split) for entry in content["annotations"][:limit])


def _image(entry, split):
    colours = np.array(Image.open(ROOT / f"panoptic_{split}" / entry["file_name"]), np.int32)
    ids = colours[..., 0] + 256 * colours[..., 1] + 256**2 * colours[..., 2]
    segments = [
        Segment(s["id"], s["category_id"], bool(s["iscrowd"])) for s in entry["segments_info"]
    ]
    return ids, segments
