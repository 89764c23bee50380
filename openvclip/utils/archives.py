"""Inspecting files of weights before they are read: nothing may unpack to more than its size.

Such a file is a zip file whose tensors are stored uncompressed, so what its directory promises is
about its size; a pickle in it, or alone, makes objects, up to a hundred times its size. Both are
looked through first, without unpacking or making anything.
"""

from __future__ import annotations

import os
import struct
import zipfile
from typing import BinaryIO

from openvclip.utils.pickles import MOST_STEPS, ArchiveError, BombError, check_pickles

ZIP_START = b"PK\x03\x04"
# The end of a zip file: its last record, before it the two of files above 4 GB.
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
# The smallest record of the directory, and the least that stands before a member's bytes.
_ENTRY_BYTES, _HEADER_BYTES = 46, 30
MOST_MEMBERS = 100_000
MOST_DIRECTORY_BYTES = 16 << 20
MOST_PICKLE_BYTES = 64 << 20
# TorchScript compresses its code; OpenAI's files hold below 1 MB of it.
SPARE_BYTES = 64 << 20
MOST_SAFETENSORS_HEADER = 8 << 20


def check_weights(file: BinaryIO, most_steps: int = MOST_STEPS) -> bool:
    """Inspect what ``torch.load`` or the TorchScript reader would read.

    Its pickles may have at most ``most_steps`` operations. Returns whether it is a zip file.

    Raises:
        ArchiveError: it would unpack to far more than its size, or is not a complete zip file.
    """
    file.seek(0)
    if file.read(len(ZIP_START)) != ZIP_START:
        file.seek(0)
        check_pickles(file.read(MOST_PICKLE_BYTES), 5, most_steps)
        return False
    _check_zip(file)
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.filename.lower().endswith("/data.pkl"):
                check_pickles(archive.read(member), 1, most_steps)
    return True


def check_safetensors(file: BinaryIO) -> None:
    """Check the size that a ``.safetensors`` file declares for its header.

    Raises:
        ArchiveError: it is more than any model needs, or more than the file holds.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > min(size - 8, MOST_SAFETENSORS_HEADER):
        raise ArchiveError(f"it declares a header of {length:,} bytes in a file of {size:,}")


def _check_zip(file: BinaryIO) -> None:
    size, start, count = _find_directory(file)
    members = zipfile.ZipFile(file).infolist()  # the file stays open: it is the caller's
    if len(members) != count or len({member.filename.lower() for member in members}) != count:
        raise ArchiveError(f"its directory does not list {count:,} different members")
    promised = sum(member.file_size for member in members)
    if promised > size + SPARE_BYTES:
        raise BombError(f"its {count:,} members promise {promised:,} bytes in a file of "
                        f"{size:,}: it looks like a decompression bomb")
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset < end:
            raise ArchiveError(f"its member {member.filename[:100]!r} lies within another")
        end = member.header_offset + _HEADER_BYTES + len(member.filename) + member.compress_size
        if member.compress_type == zipfile.ZIP_STORED and (
                member.file_size != member.compress_size):
            raise ArchiveError(f"its member {member.filename[:100]!r} has two different sizes")
        if member.filename.lower().endswith(".pkl") and member.file_size > MOST_PICKLE_BYTES:
            raise ArchiveError(f"its member {member.filename[:100]!r} has {member.file_size:,} "
                               f"bytes, more than the {MOST_PICKLE_BYTES:,} that are read")
    if end > start:
        raise ArchiveError("its members overlap its directory")


def _find_directory(file: BinaryIO) -> tuple[int, int, int]:
    """Return the file's size, its directory's offset and its member count, as every reader does."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END.size - 0xFFFF))
    tail = file.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) - place < _END.size:
        raise ArchiveError("the end of the zip file is missing")
    _, *disks, count, length, start, _ = _END.unpack_from(tail, place)
    here = size - len(tail) + place
    file.seek(max(0, here - _LOCATOR.size - _END64.size))
    before = file.read(min(here, _LOCATOR.size + _END64.size))
    if before[-_LOCATOR.size:].startswith(b"PK\x06\x07"):
        small = (*disks, count, length, start)
        here -= len(before)
        if not before.startswith(b"PK\x06\x06") or len(before) != _LOCATOR.size + _END64.size:
            raise ArchiveError("the end of the zip file is damaged")
        large = _END64.unpack_from(before)[4:]
        _, _, where, _ = _LOCATOR.unpack_from(before, _END64.size)
        full = (0xFFFF,) * 4 + (0xFFFFFFFF,) * 2
        agree = all(a in (b, most) for a, b, most in zip(small, large, full, strict=True))
        if where != here or not agree:
            raise ArchiveError("the two ends of the zip file contradict each other")
        count, length, start = large[3:]
    if start + length != here or count * _ENTRY_BYTES > length:
        raise ArchiveError("the zip file's directory is not where its end record says")
    if length > MOST_DIRECTORY_BYTES or count > MOST_MEMBERS:
        raise ArchiveError(f"its directory has {count:,} members in {length:,} bytes, too many "
                           "for a model")
    return size, start, count
