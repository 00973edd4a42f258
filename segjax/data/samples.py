"""Random images of a prepared dataset, as stored and as training's batches have them."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8

from segjax.data.config import DataConfig
from segjax.data.dataset import Dataset
from segjax.data.example import decode_stored
from segjax.data.pipeline import trained_on
from segjax.data.rows import Record, Row, make_row


@dataclasses.dataclass(frozen=True)
class Sample:
    """One image.

    Attributes:
      image_id: id in the annotation file.
      name: file name.
      record: stored record, with the annotations.
      image: RGB pixels, as stored.
      rows: the image as rows of training batches, each with its own random augmentation.
    """

    image_id: int
    name: str
    record: Record
    image: UInt8[np.ndarray, "h w 3"]
    rows: tuple[Row, ...]


def samples(
    dataset: Dataset,
    split: str,
    config: DataConfig,
    *,
    number: int,
    copies: int = 0,
    seed: int = 0,
) -> Iterator[Sample]:
    """Draws images of a split at random.

    Args:
      dataset: dataset from `open_dataset`.
      split: name of the split.
      config: transforms and sizes, as for `train_iterator`.
      number: number of images; all if there are fewer.
      copies: number of augmented rows of each. Mixes draw from the images to train on.
      seed: seed of the choice and of the augmentation.

    Yields:
      The images, in the order of the split.

    Raises:
      KeyError: if there is no such split.
    """
    # Imported late because it requires TFDS, which prediction does not need.
    from segjax.data.build import open_records

    found = dataset.split(split)
    records = open_records(found)
    rng = np.random.default_rng([seed, 3])
    count = len(found.index)
    others = trained_on(dataset, config) if copies else np.arange(count)

    def another(rng: np.random.Generator) -> Record:
        return records[int(rng.choice(others))]

    for position in sorted(rng.choice(count, min(number, count), replace=False).tolist()):
        record = records[position]
        rows = tuple(make_row(record, rng, config, another) for _ in range(copies))
        name = record["image/filename"]
        name = name.decode() if isinstance(name, bytes) else str(name)
        yield Sample(int(record["image/id"]), name, record, decode_stored(record), rows)
