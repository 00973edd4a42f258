"""Dataset formats, with one module each.

To add a format, write a class that follows `segjax.data.protocols.Source` and add it to `FORMATS`.
`DataConfig.name`, the cache and `segjax check-data` then support it.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from segjax.data.config import DataConfig
from segjax.data.formats.coco_2017 import Coco2017
from segjax.data.formats.coco_files import CocoFiles
from segjax.data.formats.coco_folder import CocoFolder, has_annotations
from segjax.data.formats.shapes import Shapes
from segjax.data.formats.yolo import YoloFolder
from segjax.data.labels import find_labels
from segjax.data.protocols import Source, Split, Workspace

# Values of `DataConfig.name`.
FORMATS: dict[str, type[Source]] = {
    "folder": CocoFolder,
    "2017": Coco2017,
    "shapes": Shapes,
    "yolo": YoloFolder,
}


def open_source(config: DataConfig) -> Source:
    """Returns the source that a config names; raises `ValueError` if a field is missing."""
    if config.name == "folder" and (config.train_json or config.val_json or config.test_json):
        return CocoFiles.of(config)
    return FORMATS[config.name if recognised(config) is None else "yolo"].of(config)


def recognised(config: DataConfig) -> str | None:
    """Recognises folders in a known format other than COCO.

    Args:
      config: `name`, `root` and `instances` are used. Only the default name "folder" triggers
        recognition; a format that is named explicitly is trusted.

    Returns:
      A description, such as "data.yaml and labels/*.txt: YOLO"; None if nothing is recognised.
    """
    if config.name != "folder" or not config.root or not config.instances:
        return None
    root = Path(config.root).expanduser()
    return None if has_annotations(root) else YoloFolder.recognises(root)


def open_splits(source: Source, config: DataConfig, workspace: Workspace) -> Mapping[str, Split]:
    """Opens the splits of a source, with the labels of `config.semantic_root` if it is set.

    Args:
      source: source from `open_source`.
      config: `semantic` and `semantic_root` are used.
      workspace: tools for sources that download or unpack files.

    Returns:
      The splits by name.

    Raises:
      CocoError: if something is missing; the message names it.
    """
    splits = source.splits(workspace)
    if not config.semantic_root:
        return splits
    return {
        name: dataclasses.replace(
            split, labels=find_labels(config.semantic, config.semantic_root, name, apart=True)
        )
        for name, split in splits.items()
    }
