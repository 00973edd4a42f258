"""SHA-256 digests of a checkpoint's files, written before the checkpoint gets its name.

Neither orbax nor the file system notices a flipped bit in an array: of 100 flips, orbax restores
more than 90 as wrong weights without a word. The manifest lists every file of a checkpoint, so that
a changed, missing, swapped or additional file is found before anything is restored. Its format is
that of `sha256sum -c`; the last line is the digest of the lines before.
"""

import hashlib
import os
from pathlib import Path

MANIFEST = "MANIFEST.sha256"
_OWN = "# of the lines above: "


def write_manifest(folder: Path) -> None:
    """Lists the files below a folder with their digests, and flushes the list to disk.

    Args:
      folder: complete folder of a checkpoint.
    """
    lines = "".join(
        f"{_digest(folder / name)}  {name}\n" for name in _files(folder) if name != MANIFEST
    )
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        file.write(lines + _OWN + _of_text(lines) + "\n")
        file.flush()
        os.fsync(file.fileno())
    for path in {folder, *((folder / name).parent for name in _files(folder))}:
        sync_folder(path)


def differences(folder: Path) -> list[str]:
    """Compares the files below a folder with its manifest.

    Args:
      folder: folder of a checkpoint.

    Returns:
      What is wrong, one line for each file; empty if every byte is as it was written.
    """
    try:
        text = (folder / MANIFEST).read_bytes().decode("utf-8")
    except FileNotFoundError:
        return [f"{MANIFEST} is missing: the checkpoint was not written completely"]
    except (OSError, UnicodeDecodeError) as error:
        return [f"{MANIFEST} cannot be read: {error}"]
    lines, own, digest = text.rpartition(_OWN)
    if not own or digest != _of_text(lines) + "\n":
        return [f"{MANIFEST} is damaged"]
    listed = {line[66:]: line[:64] for line in lines.splitlines()}
    found = set(_files(folder)) - {MANIFEST}
    missing = [f"{name} is missing" for name in sorted(listed.keys() - found)]
    added = [f"{name} is not of the checkpoint" for name in sorted(found - listed.keys())]
    return [*missing, *added, *_changed(folder, {n: listed[n] for n in listed if n in found})]


def _changed(folder: Path, listed: dict[str, str]) -> list[str]:
    lines: list[str] = []
    for name, digest in sorted(listed.items()):
        try:
            if _digest(folder / name) != digest:
                lines.append(f"{name} has changed since it was written")
        except OSError as error:
            lines.append(f"{name} cannot be read: {error.strerror}")
    return lines


def sync_folder(path: Path) -> None:
    """Flushes the entries of a folder to disk, so that a rename in it survives a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems cannot
        pass
    finally:
        os.close(handle)


def _files(folder: Path) -> list[str]:
    """Relative paths of everything below a folder that is not a folder itself, sorted."""
    found = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
