"""COCO's panoptic format: a PNG of segment ids, and a JSON entry that describes the segments.

Ids are encoded as colours, R + 256 G + 65536 B, and black is void (cocodataset.org, "panoptic
segmentation"; panopticapi's `id2rgb` and `rgb2id`).
"""

from typing import Any

import numpy as np
from jaxtyping import Int32, Integer, UInt8

from segjax.data import rle
from segjax.data.segments import ids_of
from segjax.results.maps import PanopticMap

HIGHEST_ID = (1 << 24) - 1


def encode_ids(ids: Integer[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Encodes segment ids as RGB.

    Raises:
      ValueError: if an id is negative or has more than 24 bits.
    """
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) <= HIGHEST_ID:
        raise ValueError(
            f"ids run from {ids.min()} to {ids.max()}: a PNG of three bytes a pixel holds"
            f" 0..{HIGHEST_ID}"
        )
    wide = ids.astype(np.int64)
    return np.stack([wide & 255, wide >> 8 & 255, wide >> 16], axis=-1).astype(np.uint8)


def decode_ids(rgb: UInt8[np.ndarray, "h w 3"]) -> Int32[np.ndarray, "h w"]:
    """Decodes segment ids from an RGB image (not OpenCV's BGR)."""
    return ids_of(rgb)


def encode_png(ids: Integer[np.ndarray, "h w"]) -> bytes:
    """Encodes segment ids as a PNG file; read it with `images.decode_map` and `decode_ids`.

    Raises:
      ValueError: if an id is negative or has more than 24 bits.
    """
    import cv2

    # OpenCV expects BGR.
    return cv2.imencode(".png", encode_ids(ids)[..., ::-1])[1].tobytes()


def annotation(panoptic: PanopticMap, image_id: int, file_name: str) -> dict[str, Any]:
    """Makes an entry of `annotations` in a panoptic JSON file.

    Args:
      panoptic: panoptic map; the ids of its categories become `category_id`.
      image_id: id of the image.
      file_name: name of the PNG in its folder.

    Returns:
      `{"image_id", "file_name", "segments_info"}`. Each segment has `id`, `category_id`, `area`,
      `bbox` (x, y, width, height), `iscrowd`, and `score` if it is known.
    """
    segments = []
    for segment in panoptic.segments:
        x0, y0, x1, y1 = rle.to_bbox(rle.encode(panoptic.mask(segment.id)))
        entry: dict[str, Any] = {
            "id": segment.id,
            "category_id": segment.category.id,
            "area": segment.area,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "iscrowd": int(segment.is_crowd),
        }
        if segment.score is not None:
            entry["score"] = segment.score
        segments.append(entry)
    return {"image_id": int(image_id), "file_name": file_name, "segments_info": segments}
