"""The synthetic dataset of `segjax.data.shapes`, drawn on first use."""

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
      made: settings of the synthetic images.
      folder: source that reads the images once they are drawn.
    """

    made: ShapesConfig
    folder: CocoFolder

    @classmethod
    def of(cls, config: DataConfig) -> "Shapes":
        """Creates the source from a config; without `root`, images are drawn into `cache_dir`."""
        made = config.shapes or ShapesConfig()
        root = Path(config.root or f"{config.cache_dir}/shapes-{made.fingerprint()}").expanduser()
        return cls(made, CocoFolder.of(dataclasses.replace(config, root=str(root))))

    def fingerprint(self) -> str:
        """Draws the files if necessary, and hashes them."""
        self._draw()
        return self.folder.fingerprint()

    def splits(self, workspace: Workspace) -> Mapping[str, Split]:
        """Draws the files if necessary, and opens the splits."""
        self._draw()
        return self.folder.splits(workspace)

    def _draw(self) -> None:
        root = Path(self.folder.root)
        root.parent.mkdir(parents=True, exist_ok=True)
        # Processes that start at the same time must not draw into the same folder.
        with locked(root.with_name(f"{root.name}.lock")):
            generate(self.made, root)
