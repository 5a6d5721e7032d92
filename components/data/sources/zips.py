"""Zip archives: the directory read as a stream, at a fixed price an entry; members unpacked within bounds.

The standard library's zipfile keeps 600 bytes an entry before anybody can say how many are too many, unpacks bzip2
members without a limit, and (before 3.11.8) follows entries that lie over one another.
"""

from __future__ import annotations

import bz2
import stat
import struct
import zlib
from array import array
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

import numpy as np

from components.data.sources.boxes import Member, spooled
from components.data.sources.caps import MEBIBYTE, Allowance, DamagedArchive
from components.data.sources.item import Content, unsafe_path

_END = struct.Struct("<4s4H2LH")  # end of central directory; APPNOTE 6.3.10, 4.3.16
_END64_LOCATOR = struct.Struct("<4sLQL")  # 4.3.15
_END64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_ENTRY = struct.Struct("<4s6H3L5H2L")  # 4.3.12
_LOCAL = struct.Struct("<4s5H3L2H")  # 4.3.7
_LONGEST_COMMENT = 65_535
_CHUNK = 64 * 1024
_SMALL = MEBIBYTE  # members below this size are let pass at any ratio
_ENCRYPTED, _PATCH, _STRONG, _UTF8 = 0x1, 0x20, 0x40, 0x800
_STORED, _DEFLATED, _BZIP2 = 0, 8, 12


@dataclass(slots=True)
class _Places:
    """Where the members lie: numbers in arrays, since there may be millions."""

    offset: array[int] = field(default_factory=lambda: array("Q"))
    packed: array[int] = field(default_factory=lambda: array("Q"))
    crc: array[int] = field(default_factory=lambda: array("I"))
    name_crc: array[int] = field(default_factory=lambda: array("I"))
    name_bytes: array[int] = field(default_factory=lambda: array("I"))
    method: array[int] = field(default_factory=lambda: array("H"))


class Zip:
    """A zip archive in `file`, open for reading and seekable, called `name`."""

    apart = False

    def __init__(self, file: BinaryIO, name: str, allowance: Allowance) -> None:
        self._file = file
        self._name = name
        self._allowance = allowance
        self._places = _Places()
        self._start = 0  # of the directory: members end before it
        self._shift = 0

    def members(self) -> list[Member]:
        """Return all files. Raises DamagedArchive for a directory that cannot be read or entries that overlap."""
        try:
            members = list(self._listed())
        except (OSError, struct.error, OverflowError) as error:
            raise self._damaged(str(error)) from error
        self._refuse_overlaps()
        return members

    def read(self, member: Member, max_bytes: int) -> Content:
        """Return a member's bytes, or the problem that sets it aside."""
        content = bytearray()
        try:
            for chunk in self._chunks(member):
                content += chunk
                if len(content) > max_bytes:
                    return b"", "too-many-bytes"
        except (DamagedArchive, OSError):
            return b"", "unreadable"
        return bytes(content), None

    def open(self, member: Member) -> AbstractContextManager[BinaryIO]:
        """Return a context with a member as a temporary file, its bytes taken from the allowance."""
        return spooled(self._chunks(member), f"{self._name}/{member.name}", self._allowance)

    def _listed(self) -> Iterator[Member]:
        count, size, self._start = self._directory()
        self._allowance.check_entries(self._name, count)
        number = 0
        for entry in self._entries(self._start, self._start + size):
            member = self._entry(entry, number)
            if member is not None:
                yield member
                number += 1

    def _entries(self, position: int, end: int) -> Iterator[bytes]:
        """Yield the directory's entries, which lie between two positions of the file."""
        window, at = b"", 0
        while position < end or at < len(window):
            length = _entry_bytes(window, at)
            if length is None or at + length > len(window):
                self._file.seek(position)
                more = self._file.read(min(MEBIBYTE, end - position))
                if not more:
                    raise self._damaged("its directory is cut off")
                window, at, position = window[at:] + more, 0, position + len(more)
            elif not length:
                raise self._damaged("its directory holds something else")
            else:
                yield window[at : at + length]
                at += length

    def _directory(self) -> tuple[int, int, int]:
        """Return the directory's (announced entries, bytes, position)."""
        length = self._file.seek(0, 2)
        tail_start = max(0, length - _END.size - _LONGEST_COMMENT)
        self._file.seek(tail_start)
        tail = self._file.read(length - tail_start)
        found = tail.rfind(b"PK\x05\x06")
        if found < 0 or len(tail) - found < _END.size:
            raise self._damaged("it has no end record")
        _, disk, first_disk, _, count, size, offset, _ = _END.unpack_from(tail, found)
        end = tail_start + found
        if end >= _END64_LOCATOR.size + _END64.size:
            self._file.seek(end - _END64_LOCATOR.size - _END64.size)
            wide = self._file.read(_END64_LOCATOR.size + _END64.size)
            if wide.startswith(b"PK\x06\x06") and wide[_END64.size :].startswith(b"PK\x06\x07"):
                _, _, _, _, disk, first_disk, _, count, size, offset = _END64.unpack_from(wide)
                end -= _END64_LOCATOR.size + _END64.size
        if disk or first_disk:
            raise self._damaged("it is one part of several")
        self._shift = end - size - offset  # what was put before the archive, as in self-extracting ones
        if self._shift < 0:
            raise self._damaged("its directory lies outside it")
        return count, size, end - size

    def _entry(self, entry: bytes, number: int) -> Member | None:
        """Return one entry of the directory as a member, its place noted; None for a folder."""
        (_, _, _, flags, method, _, _, crc, packed, size, name_bytes, extra_bytes, _, _, _, attributes, offset) = (
            _ENTRY.unpack_from(entry)
        )
        raw = entry[_ENTRY.size : _ENTRY.size + name_bytes]
        name = raw.decode("utf-8", "surrogateescape") if flags & _UTF8 else raw.decode("cp437")
        name = name.replace("\\", "/")
        self._allowance.take_entry(self._name, name)
        if name.endswith("/"):
            return None
        extra = entry[_ENTRY.size + name_bytes : _ENTRY.size + name_bytes + extra_bytes]
        size, packed, offset = self._wide(extra, size, packed, offset)
        places = self._places
        places.offset.append(offset + self._shift)
        places.packed.append(packed)
        places.crc.append(crc)
        places.name_crc.append(zlib.crc32(raw))
        places.name_bytes.append(name_bytes)
        places.method.append(method)
        problem = None
        if unsafe_path(name):
            problem = "unsafe-path"
        elif stat.S_ISLNK(attributes >> 16):
            problem = "symlink"
        elif flags & (_ENCRYPTED | _PATCH | _STRONG) or method not in (_STORED, _DEFLATED, _BZIP2):
            problem = "unreadable"
        elif size > _SMALL and size > self._allowance.caps.max_ratio * max(packed, 1):
            problem = "too-many-bytes"
        return Member(name, size, number, problem)

    def _wide(self, extra: bytes, *narrow: int) -> tuple[int, int, int]:
        """Return size, packed size and offset, those of 64 bits taken from the extra field (4.5.3)."""
        size, packed, offset = narrow
        while 0xFFFFFFFF in narrow and len(extra) >= 4:
            kind, length = struct.unpack_from("<HH", extra)
            if kind == 1:
                values = iter(struct.unpack_from(f"<{min(length, len(extra) - 4) // 8}Q", extra, 4))
                try:
                    size, packed, offset = (next(values) if value == 0xFFFFFFFF else value for value in narrow)
                except RuntimeError as error:  # what StopIteration becomes in a generator
                    raise self._damaged("a size of 64 bits is missing") from error
                break
            extra = extra[4 + length :]
        return size, packed, offset

    def _refuse_overlaps(self) -> None:
        """Raise DamagedArchive where members share bytes: a small file can be unpacked a million times so (Fifield)."""
        starts = np.frombuffer(self._places.offset, np.uint64)
        if not len(starts):
            return
        ends = starts + np.uint64(_LOCAL.size) + np.frombuffer(self._places.packed, np.uint64)
        ends += np.frombuffer(self._places.name_bytes, np.uint32).astype(np.uint64)
        order = np.argsort(starts, kind="stable")
        reached = np.maximum.accumulate(ends[order])
        if (starts[order][1:] < reached[:-1]).any() or reached[-1] > self._start or (ends < starts).any():
            raise self._damaged("its entries overlap or lie outside it")

    def _chunks(self, member: Member) -> Iterator[bytes]:
        """Yield a member's content, a bounded piece at a time. Raises DamagedArchive where it is not what is stated."""
        place = member.place
        places = self._places
        self._file.seek(places.offset[place])
        header = self._file.read(_LOCAL.size)
        if len(header) < _LOCAL.size or not header.startswith(b"PK\x03\x04"):
            raise self._damaged(f"no entry lies where {member.name!r} should be")
        *_, name_bytes, extra_bytes = _LOCAL.unpack(header)
        if zlib.crc32(self._file.read(name_bytes)) != places.name_crc[place]:
            raise self._damaged(f"the entry of {member.name!r} has another name")
        self._file.seek(extra_bytes, 1)
        left, crc, packed = member.size or 0, 0, places.packed[place]
        if self._file.tell() + packed > self._start:
            raise self._damaged(f"{member.name!r} is cut off")
        for chunk in _unpacked(self._file, packed, places.method[place]):
            left -= len(chunk)
            if left < 0:
                raise self._damaged(f"{member.name!r} is larger than it says")
            crc = zlib.crc32(chunk, crc)
            yield chunk
        if left or crc != places.crc[place]:
            raise self._damaged(f"{member.name!r} does not have the size and checksum it says")

    def _damaged(self, why: str) -> DamagedArchive:
        return DamagedArchive(f"{self._name} is not a readable zip archive ({why}); pack it again")


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


class _Inflate:
    """zlib's raw deflate with the bounded `decompress` that bz2 has."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(-zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max(max_length, 0))


def _unpacked(file: BinaryIO, packed: int, method: int) -> Iterator[bytes]:
    """Yield `packed` bytes from where `file` stands, unpacked, in pieces of at most a mebibyte."""
    decompressor: _Decompressor | None = None
    if method != _STORED:
        decompressor = _Inflate() if method == _DEFLATED else bz2.BZ2Decompressor()
    try:
        while packed:
            data = file.read(min(packed, _CHUNK))
            packed -= len(data)
            if not data:
                return
            if decompressor is None:
                yield data
                continue
            while piece := decompressor.decompress(data, MEBIBYTE):
                yield piece
                data = b""
                if decompressor.eof:
                    return
            if decompressor.eof:
                return
    except (zlib.error, ValueError, EOFError) as error:
        raise DamagedArchive(str(error)) from error


def _entry_bytes(window: bytes, at: int) -> int | None:
    """Return the length of the directory entry that starts at `at`: None where it cannot be seen yet, 0 for none."""
    if len(window) < at + _ENTRY.size:
        return None
    if not window.startswith(b"PK\x01\x02", at):
        return 0
    name, extra, comment = struct.unpack_from("<3H", window, at + 28)
    return _ENTRY.size + int(name) + int(extra) + int(comment)
