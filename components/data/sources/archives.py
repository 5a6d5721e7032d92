"""Images inside .zip, .tar and .tar.gz archives. Nothing is ever extracted to a path that an archive chose."""

from __future__ import annotations

import gzip
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, BinaryIO, cast

from components.data.decode import ImageLimits
from components.data.sources.item import Layout, SourceItem, ignored, printable, unsafe_path
from components.errors import DataError

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")

_CHUNK = 1024 * 1024
_SMALL = 1024 * 1024  # files below this size are let pass at any ratio: they cannot fill anything
# What zipfile is known to raise on damaged, encrypted or oddly compressed members.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, LookupError, struct.error)
_TAR_ERRORS = (tarfile.TarError, EOFError, OSError, ValueError, OverflowError, RecursionError, struct.error)


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """Where an archive is refused as a whole; ratio: unpacked bytes for each packed one."""

    max_entries: int = 2_000_000
    max_total_bytes: int = 256 * 1024**3
    max_ratio: float = 200.0


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    size: int
    place: int  # index among the zip's entries, or offset of the content in a tar
    problem: str | None


def read_archive(file: BinaryIO, name: str, limits: ImageLimits, caps: ArchiveLimits) -> Iterator[SourceItem]:
    """Yield the files in an archive (open for reading, seekable) called `name`, by their names.

    Links, devices, names that would leave a folder, encrypted, oversized or damaged members come as items with a
    `problem`. Raises DataError for an archive that cannot be listed or exceeds `caps`.
    """
    lowered = name.lower()
    if lowered.endswith(".zip"):
        yield from _read_zip(file, name, limits, caps)
    elif lowered.endswith(".tar"):
        yield from _read_tar(file, name, limits, caps)
    else:
        with _unpacked(file, name, caps) as tar:
            yield from _read_tar(tar, name, limits, caps)


def _read_zip(file: BinaryIO, name: str, limits: ImageLimits, caps: ArchiveLimits) -> Iterator[SourceItem]:
    try:
        archive = zipfile.ZipFile(file)
    except (*_ZIP_ERRORS, NotImplementedError) as error:
        raise DataError(f"{name} is not a readable zip archive ({error}); pack it again") from error
    with archive:
        entries = archive.infolist()
        members = [_zip_member(i, entry, limits, caps) for i, entry in enumerate(entries) if not entry.is_dir()]
        for member, label in _in_order(name, members, caps):
            content, problem = b"", member.problem
            if problem is None:
                content, problem = _read_zip_member(archive, entries[member.place], limits)
            yield SourceItem(printable(member.name), content, label, problem=problem)


def _zip_member(index: int, entry: zipfile.ZipInfo, limits: ImageLimits, caps: ArchiveLimits) -> _Member:
    name = entry.filename.replace("\\", "/")
    problem = None
    if unsafe_path(name) or "\x00" in entry.orig_filename:
        problem = "unsafe-path"
    elif stat.S_ISLNK(entry.external_attr >> 16):
        problem = "symlink"
    elif entry.flag_bits & 0x1:  # encrypted
        problem = "unreadable"
    elif entry.file_size > limits.max_bytes or (
        entry.file_size > _SMALL and entry.file_size > caps.max_ratio * max(entry.compress_size, 1)
    ):
        problem = "too-many-bytes"
    return _Member(name, entry.file_size, index, problem)


def _read_zip_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limits: ImageLimits) -> tuple[bytes, str | None]:
    try:
        with archive.open(entry) as member:
            content = member.read(limits.max_bytes + 1)  # the size in the directory may be a lie
    except (*_ZIP_ERRORS, NotImplementedError):
        return b"", "unreadable"
    return (content, None) if len(content) <= limits.max_bytes else (b"", "too-many-bytes")


def _read_tar(file: BinaryIO, name: str, limits: ImageLimits, caps: ArchiveLimits) -> Iterator[SourceItem]:
    try:
        members = list(_list_tar(file, limits, caps))
    except _TAR_ERRORS as error:
        raise DataError(f"{name} is not a readable tar archive ({error}); pack it again") from error
    for member, label in _in_order(name, members, caps):
        content, problem = b"", member.problem
        if problem is None:
            file.seek(member.place)
            content = file.read(member.size)
            if len(content) < member.size:
                content, problem = b"", "unreadable"
        yield SourceItem(printable(member.name), content, label, problem=problem)


def _list_tar(file: BinaryIO, limits: ImageLimits, caps: ArchiveLimits) -> Iterator[_Member]:
    reads = cast("IO[bytes]", _BoundedReads(file, limits.max_bytes + _CHUNK))
    with tarfile.open(fileobj=reads, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
        listed = 0
        while (entry := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # else every header stays in memory
            listed += 1
            if entry.size < 0 or listed > 2 * caps.max_entries:
                raise tarfile.ReadError(f"entry {listed} points back, or there are more than {2 * caps.max_entries}")
            if not entry.isdir():
                yield _tar_member(entry, limits)
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile stops silently at a damaged header
            raise tarfile.ReadError(f"no end mark after entry {listed}: it is cut off or damaged")


def _tar_member(entry: tarfile.TarInfo, limits: ImageLimits) -> _Member:
    problem = None
    name = entry.name.removeprefix("./")
    if unsafe_path(name):
        problem = "unsafe-path"
    elif entry.issym() or entry.islnk():
        problem = "symlink"
    elif not entry.isreg() or entry.issparse():
        problem = "unreadable"
    elif entry.size > limits.max_bytes:
        problem = "too-many-bytes"
    return _Member(name, entry.size, entry.offset_data, problem)


def _in_order(name: str, members: list[_Member], caps: ArchiveLimits) -> Iterator[tuple[_Member, str | None]]:
    """Yield members by name with their labels. Raises DataError where there are too many or too large ones."""
    total = sum(member.size for member in members if member.problem is None)
    if len(members) > caps.max_entries or total > caps.max_total_bytes:
        raise DataError(
            f"{name} holds {len(members)} files of {total} bytes; at most {caps.max_entries} files and "
            f"{caps.max_total_bytes} bytes are read from one archive; split it"
        )
    kept = sorted((m for m in members if m.problem or not ignored(m.name)), key=lambda m: (m.name, m.place))
    layout = Layout([member.name for member in kept if member.problem is None], unwrap=True)
    for member in kept:
        yield member, None if member.problem == "unsafe-path" else layout.label(member.name)


@contextmanager
def _unpacked(file: BinaryIO, name: str, caps: ArchiveLimits) -> Iterator[BinaryIO]:
    """Yield the tar inside a .tar.gz as a nameless temporary file: sorted reading needs to go back and forth."""
    packed = file.seek(0, 2)
    file.seek(0)
    most = min(caps.max_total_bytes, max(int(caps.max_ratio * packed), 64 * _SMALL))
    with tempfile.TemporaryFile() as tar:
        try:
            with gzip.GzipFile(fileobj=file) as source:
                while chunk := source.read(_CHUNK):
                    if tar.tell() + len(chunk) > most:
                        raise DataError(f"{name} unpacks to more than {most} bytes from {packed}; refused as a bomb")
                    tar.write(chunk)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{name} is not a readable .tar.gz archive ({error}); pack it again") from error
        tar.seek(0)
        yield cast("BinaryIO", tar)


class _BoundedReads:
    """A file that refuses a single huge read: extended tar headers are read whole, at the size they claim."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file = file
        self._most = most

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._most:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        return self._file.read(size)

    def seek(self, position: int, whence: int = 0) -> int:
        return self._file.seek(position, whence)

    def tell(self) -> int:
        return self._file.tell()
