"""Reads images and video frames one by one, and writes drawings."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from segjax.predict.images import as_image, is_url
from segjax.predict.sources import Source


@dataclasses.dataclass(frozen=True)
class Frame:
    """One image or video frame to predict.

    Attributes:
      source: file, URL or video that the frame is from.
      name: name in results: that of the source, followed by "#" and a number for video frames.
      image: RGB pixels.
      number: number of the frame in its video, from 1; 0 for images.
      rate: frame rate of the drawn video, per second; 0 for images.
    """

    source: Source
    name: str
    image: UInt8[np.ndarray, "h w 3"]
    number: int = 0
    rate: float = 0.0


def read_all(
    sources: Sequence[Source], failed: dict[str, str], stride: int = 1
) -> Iterator[tuple[int, Frame]]:
    """Reads images and video frames, with their image ids.

    Args:
      sources: images and videos to read.
      failed: updated with the reason for each source that cannot be read.
      stride: read every `stride`-th frame of a video.

    Yields:
      The image id, and the image or frame. The id is the number in the file name if all names are
      different numbers, as in COCO, or else the position among all images and frames, from 1.
    """
    numbers = _file_numbers(sources)
    count = 0
    for place, source in enumerate(sources):
        try:
            for frame in _frames(source, stride):
                count += 1
                yield (numbers[place] if numbers else count), frame
        except (OSError, ValueError) as error:
            failed[source.place] = str(error)
            count += 0 if source.is_video else 1  # a failure does not change the ids of others


def _file_numbers(sources: Sequence[Source]) -> list[int]:
    stems = [Path(source.name).stem for source in sources]
    if any(s.is_video for s in sources) or not all(s.isascii() and s.isdigit() for s in stems):
        return []
    numbers = [int(stem) for stem in stems]
    return numbers if len(set(numbers)) == len(numbers) else []


def _frames(source: Source, stride: int) -> Iterator[Frame]:
    if not source.is_video or is_url(source.place):
        yield Frame(source, source.name, as_image(source.place))
        return
    import cv2

    place = source.place
    video = cv2.VideoCapture(int(place[7:]) if place.startswith("camera:") else place)
    try:
        if not video.isOpened():
            raise ValueError("is not a video that OpenCV can open")
        rate = video.get(cv2.CAP_PROP_FPS) or 25.0  # OpenCV returns 0 for an unknown rate
        number = 0
        while True:
            there, image = video.read()
            if not there:
                break
            number += 1
            if (number - 1) % stride == 0:
                rgb = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
                yield Frame(source, f"{source.name}#{number}", rgb, number, rate / stride)
        if not number:
            raise ValueError("is a video without a frame that can be read")
    finally:
        video.release()


class Drawings:
    """Writes drawings: one file per image, and one video per video.

    Args:
      folder: output folder.
      kind: kind of drawing, which is appended to the file names.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder, self._kind = folder, kind
        self._names: set[str] = set()
        self._video: Any = None
        self._of: tuple[str, Path, str] | None = None  # source, file and name of the open video

    def write(self, frame: Frame, image: UInt8[np.ndarray, "h w 3"]) -> tuple[Path, str]:
        """Writes the drawing of an image or frame.

        Args:
          frame: image or frame that was drawn on.
          image: drawing, RGB.

        Returns:
          The path of the file, and a unique name of the image without suffix.
        """
        if not frame.number:
            from PIL import Image

            suffix = ".png" if Path(frame.name).suffix.lower() == ".png" else ".jpg"
            name = self._new_name(frame.source.stem)
            path = self._folder / f"{name}_{self._kind}{suffix}"
            Image.fromarray(image).save(path, quality=92)
            return path, name
        if self._of is None or self._of[0] != frame.source.place:
            self._open(frame, image.shape[1::-1])
        assert self._of is not None
        # OpenCV expects contiguous BGR pixels.
        self._video.write(np.ascontiguousarray(image[..., ::-1]))
        return self._of[1], f"{self._of[2]}_{frame.number:06d}"

    def _new_name(self, stem: str) -> str:
        """Appends a number to names that are already used, for example in another folder."""
        name, number = stem, 2
        while name in self._names:
            name = f"{stem}_{number}"
            number += 1
        self._names.add(name)
        return name

    def _open(self, frame: Frame, size: Sequence[int]) -> None:
        import cv2

        self.close()
        name = self._new_name(frame.source.stem)
        path = self._folder / f"{name}_{self._kind}.mp4"
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self._video = cv2.VideoWriter(str(path), code, frame.rate, (size[0], size[1]))
        if not self._video.isOpened():
            raise OSError(f"OpenCV cannot write the video {path}: is its codec mp4v missing?")
        self._of = frame.source.place, path, name

    def close(self) -> None:
        """Finishes the current video."""
        if self._video is not None:
            self._video.release()
        self._video = self._of = None


def with_progress(
    frames: Iterator[tuple[int, Frame]], total: int, progress: bool
) -> Iterator[tuple[int, Frame]]:
    """Shows a progress bar over frames if `progress` is set."""
    if not progress:
        yield from frames
        return
    from tqdm import tqdm

    yield from tqdm(frames, total=total or None, desc="predict", unit="image", leave=False)
