"""Pictures read one after the other, frames of videos among them, and drawings written."""

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
    """One picture to predict on.

    Attributes:
      source: file, address or video that it is from.
      name: name in results: the source's, with "#" and a number for frames of videos.
      image: RGB.
      number: number of the frame in its video, from 1; 0 for pictures.
      rate: drawn frames a second of the video; 0 for pictures.
    """

    source: Source
    name: str
    image: UInt8[np.ndarray, "h w 3"]
    number: int = 0
    rate: float = 0.0


def read_all(
    sources: Sequence[Source], failed: dict[str, str], stride: int = 1
) -> Iterator[tuple[int, Frame]]:
    """Yields pictures with their image ids.

    Args:
      sources: pictures and videos.
      failed: gets the reason for each that cannot be read.
      stride: every how many frames of a video are read.

    Yields:
      The image id: the file's number where all names are different numbers, as in COCO, else the
      place among all pictures and frames from 1; and the picture.
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
            count += 0 if source.is_video else 1  # the ids of the others stay


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
        rate = video.get(cv2.CAP_PROP_FPS) or 25.0
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
    """Writes drawings: a file for each picture, and one video for the frames of a video.

    Args:
      folder: folder of the files.
      kind: word that their names end in.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder, self._kind = folder, kind
        self._names: set[str] = set()
        self._video: Any = None
        self._of: tuple[str, Path, str] | None = None  # source, file and name of the open video

    def write(self, frame: Frame, image: UInt8[np.ndarray, "h w 3"]) -> tuple[Path, str]:
        """Writes the drawing of a picture or frame.

        Args:
          frame: picture that was drawn on.
          image: drawing, RGB.

        Returns:
          The file, and a name without ending that no other picture has.
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
        self._video.write(np.ascontiguousarray(image[..., ::-1]))
        return self._of[1], f"{self._of[2]}_{frame.number:06d}"

    def _new_name(self, stem: str) -> str:
        """Numbers names that were used already, as those of pictures from two folders."""
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
        """Completes the video that is open."""
        if self._video is not None:
            self._video.release()
        self._video = self._of = None


def with_progress(
    frames: Iterator[tuple[int, Frame]], total: int, progress: bool
) -> Iterator[tuple[int, Frame]]:
    """Shows a bar over pictures, if asked for."""
    if not progress:
        yield from frames
        return
    from tqdm import tqdm

    yield from tqdm(frames, total=total or None, desc="predict", unit="image", leave=False)
