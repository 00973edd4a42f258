"""Members of zip and tar archives as byte ranges of the file; nothing is unpacked or written.

Only archives like those of `torch.save` are accepted: plain, uncompressed members with unique names
and without overlap. This rules out decompression bombs, and archives in which two readers see
different files.
"""

import dataclasses
import struct
import zipfile
import zlib
from typing import Any

from segjax.zoo.reading.untrusted import UnsafeFileError, short, unsafe_name

_MAX_DIRECTORY = 2 << 20  # bytes: about 20,000 members
_LOCAL = struct.Struct("<4s5H3L2H")
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_BLOCK = 512


@dataclasses.dataclass(frozen=True)
class Member:
    """Byte range of a member.

    Attributes:
      start: offset of the first byte in the file.
      size: number of bytes.
      crc: CRC-32 of the bytes; None if the archive has none.
    """

    start: int
    size: int
    crc: int | None = None

    def read(self, data: Any) -> memoryview:
        """Returns the bytes.

        Args:
          data: bytes of the whole file.

        Raises:
          ValueError: if the bytes do not match the checksum.
        """
        view = memoryview(data)[self.start : self.start + self.size]
        if self.crc is not None and zlib.crc32(view) != self.crc:
            raise ValueError(
                f"the {self.size} bytes at {self.start} do not have the archive's check sum: the "
                "file is damaged; fetch it again"
            )
        return view


def zip_members(data: Any, file: Any) -> dict[str, Member]:
    """Lists the members of a zip file.

    Args:
      data: bytes of the file.
      file: the same file, open for reading.

    Returns:
      Members by name.

    Raises:
      UnsafeFileError: if the archive is not of the plain kind that `torch.save` writes.
      ValueError: if the archive is damaged.
    """
    if _directory_size(data) > _MAX_DIRECTORY:
        raise UnsafeFileError("the zip archive has more members than any checkpoint needs")
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, struct.error, OSError, ValueError) as error:
        raise ValueError(f"the zip archive is damaged or cut off: {error}") from None
    found: dict[str, Member] = {}
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.filename in found:
            raise UnsafeFileError(f"the zip archive has {short(info.filename)} twice")
        found[info.filename] = member = _zip_member(data, info)
        if info.header_offset < end:
            raise UnsafeFileError(f"member {short(info.filename)} overlaps another: a zip bomb")
        end = member.start + member.size
    return found


def _zip_member(data: Any, info: zipfile.ZipInfo) -> Member:
    name = info.orig_filename
    if unsafe_name(name):
        raise UnsafeFileError(f"the zip archive has a member named {short(name)}")
    if info.flag_bits & 0x41:  # bit 0: encrypted, bit 6: strongly encrypted
        raise UnsafeFileError(f"member {short(name)} is encrypted")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise UnsafeFileError(
            f"member {short(name)} is compressed ({info.compress_size} to {info.file_size} bytes), "
            "which torch.save does not do"
        )
    header = data[info.header_offset : info.header_offset + _LOCAL.size]
    if len(header) != _LOCAL.size or header[:4] != b"PK\3\4":
        raise ValueError(f"member {short(name)} is not where the zip archive says")
    *_, name_size, extra_size = _LOCAL.unpack(header)
    start = info.header_offset + _LOCAL.size + name_size
    # A name that differs from the directory's would show other members to other readers. zipfile
    # decodes names as UTF-8 or, without that flag, as cp437.
    written = data[start - name_size : start]
    if written not in (name.encode("utf-8"), name.encode("cp437", "replace")):
        raise UnsafeFileError(f"member {short(name)} is called {short(written)} elsewhere")
    start += extra_size
    if start + info.file_size > len(data):
        raise ValueError(f"member {short(name)} reaches beyond the end of the file")
    return Member(start, info.file_size, info.CRC)


def _directory_size(data: Any) -> int:
    """Returns the size of the directory of a zip or zip64 file, before that is parsed."""
    at = data.rfind(b"PK\5\6", max(len(data) - (1 << 16) - _END.size, 0))
    if at < 0 or at + _END.size > len(data):
        raise ValueError("the zip archive has no end: the file is cut off; fetch it again")
    size = _END.unpack(data[at : at + _END.size])[5]
    before = data[max(at - _LOCATOR.size, 0) : at]
    if len(before) < _LOCATOR.size or before[:4] != b"PK\6\7":
        return size
    # Depending on its version, `zipfile` looks for this record right before the locator or at the
    # named offset, so both have to be the same place.
    place = at - _LOCATOR.size - _END64.size
    record = data[max(place, 0) : at - _LOCATOR.size]
    if record[:4] != b"PK\6\6" or _LOCATOR.unpack(before)[2] != place:
        raise ValueError("the zip archive's zip64 record is not where it says")
    return _END64.unpack(record)[8]


def tar_members(data: Any, count: int) -> dict[str, Member]:
    """Lists the members of a tar file.

    Args:
      data: bytes of the file.
      count: upper limit on the number of members.

    Returns:
      Members by name.

    Raises:
      UnsafeFileError: if there are more than `count` members, duplicates, or members other than
        plain files.
      ValueError: if the archive is damaged.
    """
    found: dict[str, Member] = {}
    at = 0
    while len(header := data[at : at + _BLOCK]) == _BLOCK and any(header):
        name = header[:100].rstrip(b"\0").decode("latin-1").removeprefix("./")
        kind = header[156:157]
        size = _octal(header[124:136])
        # The checksum counts its own 8 bytes as spaces.
        unsigned = sum(header) - sum(header[148:156]) + 8 * 32
        if _octal(header[148:156]) != unsigned:
            raise ValueError(f"the tar archive is damaged at byte {at}")
        if kind not in (b"0", b"\0") or unsafe_name(name) or name in found or len(found) == count:
            raise UnsafeFileError(
                f"the tar archive has a member {short(name)} of kind {short(kind)}, which torch "
                "does not write"
            )
        start = at + _BLOCK
        if start + size > len(data):
            raise ValueError(f"member {short(name)} reaches beyond the end of the file")
        found[name] = Member(start, size)
        at = start + (size + _BLOCK - 1) // _BLOCK * _BLOCK
    return found


def _octal(field: bytes) -> int:
    text = field.strip(b"\0 ")
    if not text or text.strip(b"01234567"):
        raise ValueError(f"the tar archive has {short(field)} for a number")
    return int(text, 8)
