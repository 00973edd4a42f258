"""XML from unknown sources, with a size limit and without entities, which could grow endlessly."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser

from segjax.data.coco import CocoError

MAX_XML_BYTES = 1 << 30


class _NoEntities(TreeBuilder):
    """Rejects document types, the only place that can declare entities."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise CocoError(f"declares a document type ({name!r:.40}), which can define entities")


def parse_xml(path: Path) -> Element:
    """Parses an XML file.

    Args:
      path: path of the file.

    Returns:
      The root element.

    Raises:
      CocoError: if the file is missing, too large, invalid, or declares a document type.
    """
    if not path.is_file():
        raise CocoError(f"no annotation file at {path}")
    if path.stat().st_size > MAX_XML_BYTES:
        raise CocoError(f"{path} has more than {MAX_XML_BYTES} bytes")
    parser = XMLParser(target=_NoEntities())
    try:
        parser.feed(path.read_bytes())
        return parser.close()
    except CocoError as error:
        raise CocoError(f"{path} {error}: remove it") from None
    except (ParseError, ValueError, LookupError) as error:
        raise CocoError(f"{path} is not valid XML: {error}") from None


def text_of(element: Element | None, path: str) -> str:
    """Returns the stripped text of a descendant; "" if there is none."""
    found = None if element is None else element.find(path)
    return "" if found is None else (found.text or "").strip()


def numbers_of(texts: Sequence[str]) -> list[float]:
    """Converts texts to finite numbers; raises `ValueError` with the first that is not one."""
    numbers: list[float] = []
    for text in texts:
        try:
            number = float(text)
        except ValueError:
            raise ValueError(f"{text!r:.40} is not a number") from None
        if not abs(number) < 1e9:
            raise ValueError(f"{text!r:.40} is not a finite number of pixels")
        numbers.append(number)
    return numbers


def size_of(height: str | None, width: str | None) -> tuple[int, int] | None:
    """Converts two texts to (height, width); None unless both are positive whole numbers."""
    sides = (height or "", width or "")
    if not all(side.isascii() and side.isdecimal() and 0 < len(side) < 10 for side in sides):
        return None
    found = int(sides[0]), int(sides[1])
    return found if min(found) > 0 else None
