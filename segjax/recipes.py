"""Finds recipes (ready-made configs) by name, without importing JAX or the configs."""

import ast
import fnmatch
from pathlib import Path

# Next to the package in a checkout, inside of it in a wheel.
_HOME = Path(__file__).resolve().parent
_FOLDERS = (_HOME / "configs", _HOME.parent / "configs")


def find_config(name: str) -> Path:
    """Returns the file of a config from a path, or a recipe name such as "htc_r50_fpn_1x_coco".

    A folder `configs/` in the working directory takes precedence over segjax's recipes.

    Raises:
      FileNotFoundError: if there is no such config; the message lists similar recipes.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    # Names with a folder or a suffix are paths, and are not searched for among the recipes.
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
      pattern: part of a name, or a glob pattern such as "htc*".
    """
    wanted = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    found = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    paths = () if found is None else sorted(found.glob("*.py"))
    return {path.stem: path for path in paths if fnmatch.fnmatch(path.stem, wanted)}


def summary(path: Path) -> str:
    """Returns the first paragraph of a recipe's docstring, on one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())
