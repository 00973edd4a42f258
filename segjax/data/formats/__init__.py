"""Dataset formats, with one module each.

To add a format, write a class that follows `segjax.data.protocols.Source` and add it to `FORMATS`.
`DataConfig.name`, the cache and `segjax check-data` then support it.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from segjax.data.config import DataConfig
from segjax.data.formats.cityscapes import Cityscapes
from segjax.data.formats.coco_2017 import Coco2017
from segjax.data.formats.coco_files import CocoFiles
from segjax.data.formats.coco_folder import CocoFolder, has_annotations
from segjax.data.formats.coco_json import CocoJson
from segjax.data.formats.cvat import Cvat
from segjax.data.formats.hugging_face import HuggingFace
from segjax.data.formats.id_masks import IdMasks
from segjax.data.formats.label_studio import LabelStudio
from segjax.data.formats.labelme import Labelme
from segjax.data.formats.shapes import Shapes
from segjax.data.formats.voc import Voc
from segjax.data.formats.yolo import YoloFolder
from segjax.data.labels import find_labels
from segjax.data.protocols import Recognises, Source, Split, Workspace
from segjax.data.set_aside import set_aside

# Values of `DataConfig.name`.
FORMATS: dict[str, type[Source]] = {
    "folder": CocoFolder,
    "2017": Coco2017,
    "shapes": Shapes,
    "yolo": YoloFolder,
    "cvat": Cvat,
    "labelme": Labelme,
    "labelstudio": LabelStudio,
    "voc": Voc,
    "cityscapes": Cityscapes,
    "coco_json": CocoJson,
    "masks": IdMasks,
    "huggingface": HuggingFace,
}


def open_source(config: DataConfig) -> Source:
    """Returns the source that a config names; raises `ValueError` if a field is missing."""
    if config.name == "folder" and (config.train_json or config.val_json or config.test_json):
        return CocoFiles.of(config)
    found = recognised(config)
    return FORMATS[next(iter(found), config.name)].of(config)


def recognised(config: DataConfig) -> dict[str, str]:
    """Recognises folders and files in known formats other than COCO's folders.

    Args:
      config: `name`, `root` and `instances` are used. Only the default name "folder" triggers
        recognition; a format that is named explicitly is trusted.

    Returns:
      Descriptions, such as "data.yaml and labels/*.txt: YOLO", by the names of the formats that
      fit, in the order of `FORMATS`; the first is used.
    """
    if config.name != "folder" or not config.root or not config.instances:
        return {}
    root = Path(config.root).expanduser()
    if has_annotations(root):
        return {}
    kinds = {name: kind for name, kind in FORMATS.items() if isinstance(kind, Recognises)}
    words = {name: kind.recognises(root) for name, kind in kinds.items()}
    return {name: text for name, text in words.items() if text is not None}


def open_splits(source: Source, config: DataConfig, workspace: Workspace) -> Mapping[str, Split]:
    """Opens the splits of a source, with the labels and validation images that a config asks for.

    Args:
      source: source from `open_source`.
      config: `semantic`, `semantic_root` and `val_fraction` and its neighbours are used.
      workspace: tools for sources that download or unpack files.

    Returns:
      The splits by name.

    Raises:
      CocoError: if something is missing; the message names it.
    """
    splits = dict(source.splits(workspace))
    if config.semantic_root:
        for name, split in splits.items():
            labels = find_labels(config.semantic, config.semantic_root, name, apart=True)
            splits[name] = dataclasses.replace(split, labels=labels)
    others = ", ".join(list(recognised(config))[1:])
    if others:
        for name, split in splits.items():
            note = f"{split.note} (also like {others}: --data.name chooses)"
            splits[name] = dataclasses.replace(split, note=note)
    return set_aside(splits, config)
