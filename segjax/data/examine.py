"""Verifies single image files, for checking data as well as for preparing it."""

from segjax.data.coco import ImageRecord
from segjax.data.config import DataConfig
from segjax.data.images import verify_image
from segjax.data.problems import Problems
from segjax.data.store import ImageStore


def examine(
    image: ImageRecord, store: ImageStore, config: DataConfig, problems: Problems
) -> tuple[bytes, int]:
    """Reads an image file and verifies that it can be decoded completely.

    Args:
      image: record of the image, with its size according to the annotations.
      store: store that holds the file.
      config: `exif` and `max_image_pixels` are used.
      problems: collects notes on harmless defects.

    Returns:
      The bytes of the file, and the EXIF orientation to apply when it is decoded: 1 unless
      `config.exif` is "upright".

    Raises:
      StoreError: if the file cannot be read.
      ImageError: if it is damaged, too large, differs in size, or would decode to black.
    """
    data = store.read(image.file_name)
    upright = config.exif == "upright"
    header = verify_image(data, image.height, image.width, config.max_image_pixels, upright)
    if header.orientation != 1 and not upright:
        problems.add(
            "exif_orientation",
            f"image {image.id} ({image.file_name}), orientation {header.orientation}",
        )
    return data, header.orientation if upright else 1
