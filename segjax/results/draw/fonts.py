"""Fonts for names in any script."""

import functools
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_log = logging.getLogger("segjax")

# Where systems keep fonts.
_FOLDERS = (
    "~/.local/share/fonts",
    "~/.fonts",
    "~/Library/Fonts",
    "/usr/local/share/fonts",
    "/usr/share/fonts",
    "/Library/Fonts",
    "/System/Library/Fonts",
    "C:/Windows/Fonts",
)
# Words in the file names of fonts that hold many scripts, the widest first.
_WIDE = (
    *("notosanscjk", "sourcehansans", "droidsansfallback", "wqy", "pingfang", "hiragino"),
    *("msyh", "simhei", "yugoth", "malgun", "arialuni", "unifont", "notosans", "freesans"),
    *("dejavusans", "arial"),
)
_MAX_FONTS = 200  # files that are tried
# No font has a glyph for it: it shows the mark of missing ones.
_NOWHERE = "\U0010fffe"


def fitting_font(
    texts: Sequence[str], size: int, font: str | None = None
) -> tuple[Any, tuple[str, ...]]:
    """Finds a font that has the letters of all texts.

    Args:
      texts: lines to write.
      size: height of the text in pixels.
      font: path of a font file; None takes that of the variable SEGJAX_FONT, then Pillow's own,
        then those of the system.

    Returns:
      Pillow's font, and the texts. Letters that no font has are written as their code points, so
      that different names stay different; a warning says which.

    Raises:
      ValueError: if the file of `font` is not a font.
    """
    letters = "".join(sorted({letter for text in texts for letter in text if not letter.isspace()}))
    chosen = font or os.environ.get("SEGJAX_FONT", "")
    path, missing = _best(letters, chosen)
    if missing:
        _warn(missing)
        texts = [_spelled(text, missing) for text in texts]
    return _load(path, size), tuple(texts)


def _spelled(text: str, missing: str) -> str:
    return "".join(f"<{ord(one):X}>" if one in missing else one for one in text)


@functools.lru_cache(maxsize=256)
def _best(letters: str, chosen: str) -> tuple[str, str]:
    """The first font with all letters, or with the most of them; and what it lacks."""
    best = ("", letters)
    for path in (chosen,) if chosen else ("", *_system_fonts()):
        try:
            missing = _missing(path, letters)
        except OSError as error:
            if chosen:
                raise ValueError(f"{path} is not a font that can be read: {error}") from error
            continue
        if not missing:
            return path, ""
        if len(missing) < len(best[1]) or path == chosen:
            best = path, missing
    return best


def _missing(path: str, letters: str) -> str:
    font = _load(path, 16)
    mark = bytes(font.getmask(_NOWHERE))
    return "".join(letter for letter in letters if bytes(font.getmask(letter)) == mark)


@functools.lru_cache(maxsize=1)
def _system_fonts() -> tuple[str, ...]:
    """Paths of the system's fonts, those of many scripts first."""
    found: list[Path] = []
    for folder in _FOLDERS:
        for suffix in ("ttf", "ttc", "otf"):
            found += sorted(Path(folder).expanduser().glob(f"**/*.{suffix}"))
    ranks = {path: _rank(path) for path in found}
    return tuple(str(path) for path in sorted(found, key=lambda p: ranks[p])[:_MAX_FONTS])


def _rank(path: Path) -> tuple[int, int]:
    """Place among the wide fonts, and upright ones of normal weight before others."""
    name = path.stem.lower().replace("-", "").replace("_", "")
    place = next((i for i, word in enumerate(_WIDE) if word in name), len(_WIDE))
    return place, any(word in name for word in ("bold", "italic", "oblique", "thin", "light"))


@functools.lru_cache(maxsize=32)
def _load(path: str, size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)


@functools.lru_cache(maxsize=64)  # once for the same letters
def _warn(missing: str) -> None:
    _log.warning(
        "no font here has the letters %s: they are drawn as code points; give a font file with"
        " font= or the variable SEGJAX_FONT",
        missing[:20],
    )
