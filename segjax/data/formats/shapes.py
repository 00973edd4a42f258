"""The synthetic dataset of `segjax.data.shapes`, drawn when it is first read."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from segjax._files import locked
from segjax.data.config import DataConfig
from segjax.data.formats.coco_folder import CocoFolder
from segjax.data.protocols import Split, Workspace
from segjax.data.shapes import ShapesConfig, generate


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The format "shapes".

    Attributes:
      made: what to draw.
      folder: where it is drawn, and how it is read from there.
    """

    made: ShapesConfig
    folder: CocoFolder

    @classmethod
    def of(cls, config: DataConfig) -> "Shapes":
        """Makes the source that a config names; without `root` it is drawn in `cache_dir`."""
        made = config.shapes or ShapesConfig()
        root = Path(config.root or f"{config.cache_dir}/shapes-{made.fingerprint()}").expanduser()
        return cls(made, CocoFolder.of(dataclasses.replace(config, root=str(root))))

    def fingerprint(self) -> str:
        """Hashes the files, which are drawn first."""
        self._draw()
        return self.folder.fingerprint()

    def splits(self, workspace: Workspace) -> Mapping[str, Split]:
        """Finds the splits, which are drawn first."""
        self._draw()
        return self.folder.splits(workspace)

    def _draw(self) -> None:
        root = Path(self.folder.root)
        root.parent.mkdir(parents=True, exist_ok=True)
        with locked(root.with_name(f"{root.name}.lock")):
            generate(self.made, root)
