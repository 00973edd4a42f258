"""Ready-made configs by name; imports neither JAX nor the configs."""

import ast
import fnmatch
from pathlib import Path

# Next to the package in a checkout, inside of it in a wheel.
_HOME = Path(__file__).resolve().parent
_FOLDERS = (_HOME / "configs", _HOME.parent / "configs")


def find_config(name: str) -> Path:
    """The file of a config: a path, or the name of a recipe such as "htc_r50_fpn_1x_coco".

    A folder `configs/` below the working directory comes before the recipes of segjax.

    Raises:
      FileNotFoundError: if there is none; it names recipes that come near.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    # A path with a folder or a suffix means that very file, and no other of its name.
    if path.name == name and not path.suffix:
        for folder in (Path("configs"), *_FOLDERS):
            if (folder / f"{name}.py").is_file():
                return folder / f"{name}.py"
    import difflib

    near = difflib.get_close_matches(path.stem, recipes(), 3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    raise FileNotFoundError(
        f"no config file {path}, nor a recipe of that name: {hint}`segjax configs` lists them"
    )


def recipes(pattern: str = "*") -> dict[str, Path]:
    """Lists the recipes of segjax by name.

    Args:
      pattern: part of the names, or a pattern such as "htc*".
    """
    wanted = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    found = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    paths = () if found is None else sorted(found.glob("*.py"))
    return {path.stem: path for path in paths if fnmatch.fnmatch(path.stem, wanted)}


def summary(path: Path) -> str:
    """Returns the first sentence of a recipe's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())
