"""Tar archives, plain and compressed. Headers are read by the standard library, what they may cost is bounded here."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import IO, BinaryIO, cast

from components.data.sources.boxes import Member, spooled
from components.data.sources.caps import MEBIBYTE, Allowance, DamagedArchive
from components.data.sources.item import Content, unsafe_path

_HEADER_BYTES = MEBIBYTE  # of one entry, long names and extended headers included
_XZ_MEMORY = 128 * MEBIBYTE  # what unpacking may take; `xz -9` needs 65
_TAR_ERRORS = (tarfile.TarError, EOFError, OSError, ValueError, OverflowError, RecursionError, struct.error)


class Tar:
    """A plain tar in `file`, open for reading and seekable, called `name`."""

    apart = False

    def __init__(self, file: BinaryIO, name: str, allowance: Allowance) -> None:
        self._file = file
        self._name = name
        self._allowance = allowance

    def members(self) -> list[Member]:
        """Return all files, links and devices. Raises DamagedArchive for a header that cannot be read."""
        try:
            return list(self._listed())
        except _TAR_ERRORS as error:
            raise DamagedArchive(f"{self._name} is not a readable tar archive ({error}); pack it again") from error

    def read(self, member: Member, max_bytes: int) -> Content:
        """Return a member's bytes, or the problem that sets it aside."""
        size = member.size or 0
        if size > max_bytes:
            return b"", "too-many-bytes"
        self._file.seek(member.place)
        content = self._file.read(size)
        return (content, None) if len(content) == size else (b"", "unreadable")

    def open(self, member: Member) -> AbstractContextManager[BinaryIO]:
        """Return a context with a member as a temporary file, its bytes taken from the allowance."""
        return spooled(self._chunks(member), f"{self._name}/{member.name}", self._allowance)

    def _chunks(self, member: Member) -> Iterator[bytes]:
        left = member.size or 0
        self._file.seek(member.place)
        while left:
            chunk = self._file.read(min(left, MEBIBYTE))
            if not chunk:
                raise DamagedArchive(f"{self._name}: {member.name!r} is cut off; pack it again")
            left -= len(chunk)
            yield chunk

    def _listed(self) -> Iterator[Member]:
        reads = _BoundedReads(self._file)
        length = self._file.seek(0, 2)
        self._file.seek(0)
        with tarfile.open(
            fileobj=cast("IO[bytes]", reads), mode="r:", encoding="utf-8", errors="surrogateescape"
        ) as archive:
            listed, before = 0, -1
            while (entry := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else every header stays in memory
                headers_for_all = cast("dict[str, str]", archive.pax_headers)
                headers_for_all.clear()  # they would grow with every such header, and nothing here needs them
                reads.left = _HEADER_BYTES
                listed += 1
                if entry.size < 0 or archive.offset <= before:
                    raise tarfile.ReadError(f"entry {listed} points back")
                before = archive.offset
                self._allowance.take_entry(self._name, entry.name)
                if not entry.isdir():
                    yield _member(entry, length)
            self._file.seek(archive.offset)
            if self._file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile stops silently at damage
                raise tarfile.ReadError(f"no end mark after entry {listed}: it is cut off or damaged")


def _member(entry: tarfile.TarInfo, length: int) -> Member:
    problem = None
    name = entry.name.removeprefix("./")
    if unsafe_path(name):
        problem = "unsafe-path"
    elif entry.issym() or entry.islnk():
        problem = "symlink"
    elif not entry.isreg() or entry.issparse() or entry.offset_data + entry.size > length:
        problem = "unreadable"
    return Member(name, entry.size, entry.offset_data, problem)


class _BoundedReads:
    """A file that reads at most `left` bytes more: tarfile takes a header's word for how long its extension is."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.left = _HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self.left:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        self.left -= size
        return self._file.read(size)

    def seek(self, position: int, whence: int = 0) -> int:
        return self._file.seek(position, whence)

    def tell(self) -> int:
        return self._file.tell()


def unpacked_tar(file: BinaryIO, name: str, allowance: Allowance) -> AbstractContextManager[BinaryIO]:
    """Return a context with the tar inside a compressed one as a nameless temporary file.

    Sorted reading needs to go back and forth. Raises DataError where it unpacks to more than the allowance.
    """
    return spooled(_decompressed(file, name), name, allowance)


def _decompressed(file: BinaryIO, name: str) -> Iterator[bytes]:
    from pyarrow import ArrowException

    suffix = next(suffix for suffix in _OPENERS if name.lower().endswith(suffix))
    file.seek(0)
    try:
        yield from _OPENERS[suffix](file)
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, ArrowException, ValueError, OSError) as error:
        why = " ".join(str(error).split())
        raise DamagedArchive(f"{name} is not a readable {suffix} archive ({why}); pack it again") from error


def _gunzip(file: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as source:
        while chunk := source.read(MEBIBYTE):
            yield chunk


def _bunzip(file: BinaryIO) -> Iterator[bytes]:
    with bz2.BZ2File(file) as source:
        while chunk := source.read(MEBIBYTE):
            yield chunk


def _unxz(file: BinaryIO) -> Iterator[bytes]:
    data = file.read(MEBIBYTE)
    if not data:
        raise EOFError("it is empty")
    while data:  # one stream after the other, as `cat a.xz b.xz` makes them
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
        while not decompressor.eof:
            yield decompressor.decompress(data, MEBIBYTE)
            data = file.read(MEBIBYTE) if decompressor.needs_input else b""
            if not data and decompressor.needs_input and not decompressor.eof:
                raise EOFError("it is cut off")
        data = (decompressor.unused_data + data).lstrip(b"\0") or file.read(MEBIBYTE).lstrip(b"\0")


def _unzstd(file: BinaryIO) -> Iterator[bytes]:
    import pyarrow as pa

    # libzstd refuses windows of more than 128 MiB when it streams.
    with pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd") as source:
        while chunk := source.read(MEBIBYTE):
            yield chunk


_OPENERS: dict[str, Callable[[BinaryIO], Iterator[bytes]]] = {
    ".tar.gz": _gunzip,
    ".tgz": _gunzip,
    ".tar.bz2": _bunzip,
    ".tbz2": _bunzip,
    ".tar.xz": _unxz,
    ".txz": _unxz,
    ".tar.zst": _unzstd,
}
COMPRESSED_SUFFIXES = tuple(_OPENERS)
