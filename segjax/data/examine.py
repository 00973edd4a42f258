"""The look at every image file, the same when data are checked and when they are prepared."""

from segjax.data.coco import ImageRecord
from segjax.data.config import DataConfig
from segjax.data.images import verify_image
from segjax.data.problems import Problems
from segjax.data.store import ImageStore


def examine(
    image: ImageRecord, store: ImageStore, config: DataConfig, problems: Problems
) -> tuple[bytes, int]:
    """Reads an image and decodes it wholly.

    Args:
      image: the record, with the size that the annotations give.
      store: where the file is.
      config: `exif` and `max_image_pixels` are used.
      problems: gets notes on what is harmless.

    Returns:
      The bytes of the file, and the EXIF orientation by which it is turned when it is decoded: 1
      unless `config.exif` is "upright".

    Raises:
      StoreError: if the file cannot be read.
      ImageError: if it is damaged, of another size, too large, or would become black.
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
