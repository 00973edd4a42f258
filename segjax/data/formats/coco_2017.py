"""COCO 2017 from the web: images and label maps are read from the archives without unpacking."""

import dataclasses
from collections.abc import Mapping

from segjax.data.config import DataConfig
from segjax.data.formats.coco_folder import coco_split
from segjax.data.labels import LABELS
from segjax.data.protocols import Split, Workspace
from segjax.data.store import ZipStore, extract


@dataclasses.dataclass(frozen=True)
class Coco2017:
    """The format "2017".

    Attributes:
      base_url: address of COCO's `zips/` and `annotations/`.
      semantic: semantic labels to download as well, or "none".
    """

    base_url: str
    semantic: str = "none"

    @classmethod
    def of(cls, config: DataConfig) -> "Coco2017":
        """Creates the source from a config.

        Raises:
          ValueError: if `root` is set, because it would be ignored; or if the labels have files
            that cannot be downloaded, and `semantic_root` is not set.
        """
        if config.root:
            raise ValueError(
                f'root is "{config.root}", but name="2017" downloads COCO and reads nothing there:'
                " --data.name=folder reads a folder, --data.cache-dir says where downloads go"
            )
        labels = LABELS.get(config.semantic)
        if labels is None or not labels.has_files or config.semantic_root:
            return cls(config.base_url)
        if labels.archive(config.base_url) is None:
            raise ValueError(
                f'semantic="{config.semantic}" with name="2017" needs semantic_root: the folder '
                "that holds train/ and val/ of the labels"
            )
        return cls(config.base_url, config.semantic)

    def fingerprint(self) -> str:
        """Returns the address, because the files there do not change."""
        return self.base_url

    def splits(self, workspace: Workspace) -> Mapping[str, Split]:
        """Downloads the archives and opens the splits in them."""
        urls = {
            "train": f"{self.base_url}/zips/train2017.zip",
            "val": f"{self.base_url}/zips/val2017.zip",
            "annotations": f"{self.base_url}/annotations/annotations_trainval2017.zip",
        }
        maps = None if self.semantic == "none" else LABELS[self.semantic].archive(self.base_url)
        if maps is not None:
            urls["maps"] = maps.url
        paths = workspace.download(urls)
        found: dict[str, Split] = {}
        for split in ("train", "val"):
            json = workspace.folder / f"instances_{split}.json"
            extract(paths["annotations"], f"annotations/instances_{split}2017.json", json)
            labels = maps and maps.open(paths["maps"], workspace.folder, split)
            found[split] = coco_split(json, ZipStore(paths[split], f"{split}2017"), labels)
        return found
