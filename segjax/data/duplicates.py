"""Groups of images that show the same picture, so that they are kept in one split.

Copies, pictures saved again in another quality or size, and variants that a tool made of one source
would otherwise be in train and in val, and the scores of val would be too good.
"""

import bisect
import hashlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float32

# Side of the thumbnails, and the largest difference of their pixels, of 256 levels. Compression and
# scaling change a cell by less, an object that is there or not by more.
_SIDE, _TOLERANCE = 24, 4.0
Thumbnail = Float32[np.ndarray, "24 24"]
# Roboflow names the variants that it makes of one image NAME.rf.HASH.jpg.
_VARIANT = re.compile(r"^(.*)\.rf\.[0-9a-zA-Z]+(\.[a-zA-Z]+)?$")


def thumbnail(data: bytes) -> Thumbnail | None:
    """Scales an image down to gray cells; None if it cannot be decoded."""
    import cv2

    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    if image is None:
        return None
    small = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32)


def source_of(name: str, pattern: str = "") -> str | None:
    """Returns the source that a file name gives, if it does.

    Args:
      name: path of the image.
      pattern: regular expression whose first group, or whole match, is the source, such as
        "clip[0-9]+" for frames of videos; "" for Roboflow's names alone.
    """
    if pattern and (found := re.search(pattern, name)) is not None:
        return found.group(1) if found.groups() else found.group()
    variant = _VARIANT.match(name)
    return None if variant is None else variant.group(1)


def group_images(
    images: Iterable[tuple[str, bytes]], pattern: str = ""
) -> tuple[list[int], list[str]]:
    """Groups images with equal contents, nearly equal pictures, or one source.

    Nearly equal pictures are found by comparison with one picture of each group.

    Args:
      images: name and contents of each.
      pattern: as for `source_of`.

    Returns:
      Number of each image's group, and a hash of each image's contents.
    """
    hashes: list[str] = []
    keys: list[list[str]] = []
    thumbnails: list[Thumbnail | None] = []
    seen: set[str] = set()
    for name, data in images:
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        source = source_of(name, pattern)
        keys.append([digest, "" if source is None else f"source {source}"])
        thumbnails.append(None if digest in seen else thumbnail(data))
        hashes.append(digest)
        seen.add(digest)
    for key, picture in zip(keys, _alike(thumbnails), strict=True):
        key.append(picture)
    return _connected(keys), hashes


def _alike(thumbnails: Sequence[Thumbnail | None]) -> list[str]:
    """Names the group of nearly equal pictures of each thumbnail; "" for None."""
    shown = [i for i, thumb in enumerate(thumbnails) if thumb is not None]
    flat = np.array([thumbnails[i] for i in shown], np.float32).reshape(-1, _SIDE * _SIDE)
    means = flat.mean(axis=1)
    found = ["" for _ in thumbnails]
    # The first picture of each group, by brightness: means differ by no more than pixels do.
    leaders = np.zeros_like(flat)
    levels: list[float] = []
    for place in np.argsort(means, kind="stable").tolist():
        start = bisect.bisect_left(levels, float(means[place]) - _TOLERANCE)
        leader = _nearest(flat[place], leaders[start : len(levels)])
        number = len(levels) if leader is None else start + leader
        if leader is None:
            leaders[number] = flat[place]
            levels.append(float(means[place]))
        found[shown[place]] = f"picture {number}"
    return found


def _nearest(
    one: Float32[np.ndarray, " cells"], others: Float32[np.ndarray, "n cells"]
) -> int | None:
    """Returns the place of the first picture that is nearly equal."""
    few = slice(None, None, _SIDE + 5)  # cells from all over the picture
    likely = np.flatnonzero((np.abs(others[:, few] - one[few]) <= _TOLERANCE).all(axis=1))
    equal = (np.abs(others[likely] - one) <= _TOLERANCE).all(axis=1)
    return int(likely[equal][0]) if equal.any() else None


def _connected(keys: Sequence[Sequence[str]]) -> list[int]:
    """Numbers groups of elements that share a key other than "", directly or through others."""
    parents = list(range(len(keys)))

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    first: dict[str, int] = {}
    for i, found in enumerate(keys):
        for key in filter(None, found):
            parents[root(i)] = root(first.setdefault(key, i))
    return [root(i) for i in range(len(keys))]
