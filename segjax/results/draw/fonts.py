"""Finds fonts that can display class names in any script."""

import functools
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_log = logging.getLogger("segjax")

# Font folders of Linux, macOS and Windows.
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
# Parts of file names of fonts that cover many scripts, widest coverage first.
_WIDE = (
    *("notosanscjk", "sourcehansans", "droidsansfallback", "wqy", "pingfang", "hiragino"),
    *("msyh", "simhei", "yugoth", "malgun", "arialuni", "unifont", "notosans", "freesans"),
    *("dejavusans", "arial"),
)
_MAX_FONTS = 200  # maximum number of font files to try
# A noncharacter, for which no font has a glyph; it renders as the font's missing-glyph mark.
_NOWHERE = "\U0010fffe"


def fitting_font(
    texts: Sequence[str], size: int, font: str | None = None
) -> tuple[Any, tuple[str, ...]]:
    """Finds a font that has glyphs for all letters of the texts.

    Args:
      texts: lines to write.
      size: height of the text in pixels.
      font: path of a font file; None to use the one in the environment variable SEGJAX_FONT, or
        else to try Pillow's default font and then the system fonts.

    Returns:
      The Pillow font, and the texts. Letters without a glyph are replaced by their code points, so
      that different names stay different; a warning lists them.

    Raises:
      ValueError: if the chosen file is not a readable font.
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
    """Returns the first font with all letters, or else with the most, and the missing letters."""
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
    """Returns the paths of the system fonts, widest coverage first."""
    found: list[Path] = []
    for folder in _FOLDERS:
        for suffix in ("ttf", "ttc", "otf"):
            found += sorted(Path(folder).expanduser().glob(f"**/*.{suffix}"))
    ranks = {path: _rank(path) for path in found}
    return tuple(str(path) for path in sorted(found, key=lambda p: ranks[p])[:_MAX_FONTS])


def _rank(path: Path) -> tuple[int, int]:
    """Returns a sort key: coverage first, then upright fonts of normal weight before others."""
    name = path.stem.lower().replace("-", "").replace("_", "")
    place = next((i for i, word in enumerate(_WIDE) if word in name), len(_WIDE))
    return place, any(word in name for word in ("bold", "italic", "oblique", "thin", "light"))


@functools.lru_cache(maxsize=32)
def _load(path: str, size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)


@functools.lru_cache(maxsize=64)  # warns only once for the same letters
def _warn(missing: str) -> None:
    _log.warning(
        "no font here has the letters %s: they are drawn as code points; give a font file with"
        " font= or the variable SEGJAX_FONT",
        missing[:20],
    )
