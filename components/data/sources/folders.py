"""Folders of images on this machine. Links are never followed, and only regular files are read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from components.data.sources.boxes import Member
from components.data.sources.caps import DamagedArchive
from components.data.sources.item import Content, ignored
from components.data.sources.seen import stamp
from components.errors import DataError


class LocalFolder:
    """Every file below `folder`, hidden ones passed over."""

    apart = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def members(self) -> list[Member]:
        """Return all files below the folder. Raises DataError if one of its folders cannot be listed."""
        return list(self._walk())

    def read(self, member: Member, max_bytes: int) -> Content:
        """Return a file's bytes, or the problem that sets it aside."""
        return read_local_file(self._folder / member.name, max_bytes)

    @contextmanager
    def open(self, member: Member) -> Iterator[BinaryIO]:
        """Yield a file, opened. Raises DamagedArchive if it is none any more, or cannot be read."""
        with open_local_file(self._folder / member.name) as file:
            yield file

    def _walk(self) -> Iterator[Member]:
        pending = [""]
        while pending:
            inside = pending.pop()
            try:
                with os.scandir(self._folder / inside) as entries:
                    for entry in entries:
                        if ignored(entry.name):
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(f"{inside}{entry.name}/")
                        else:
                            yield _member(f"{inside}{entry.name}", entry)
            except OSError as error:
                raise DataError(
                    f"{self._folder / inside} cannot be listed ({error.strerror}); make it readable"
                ) from error


def _member(name: str, entry: os.DirEntry[str]) -> Member:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:  # it vanished: reading tells
        return Member(name, None)
    size, problem = _judged(status)
    return Member(name, size, problem=problem, stamp=stamp(name, status))


def _judged(status: os.stat_result) -> tuple[int | None, str | None]:
    if stat.S_ISLNK(status.st_mode):
        return None, "symlink"
    return (status.st_size, None) if stat.S_ISREG(status.st_mode) else (None, "unreadable")


def look_at_local_file(path: Path, max_bytes: int) -> tuple[int | None, str | None]:
    """Return (size, problem) of a file, unread."""
    try:
        size, problem = _judged(path.lstat())
    except FileNotFoundError:
        return None, "missing-file"
    except (OSError, ValueError):
        return None, "unreadable"
    return size, "too-many-bytes" if size is not None and size > max_bytes else problem


def read_local_file(path: Path, max_bytes: int) -> Content:
    """Return (content, None), or (b"", problem). Only a regular file is read, and at most `max_bytes` of it."""
    try:
        descriptor = _opened(path)
    except FileNotFoundError:
        return b"", "missing-file"
    except (OSError, ValueError):
        return b"", "symlink" if path.is_symlink() else "unreadable"
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return b"", "unreadable"
        if status.st_size > max_bytes:
            return b"", "too-many-bytes"
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            content = file.read(status.st_size + 1) or b""
    except OSError:
        return b"", "unreadable"
    finally:
        os.close(descriptor)
    return (content, None) if len(content) == status.st_size else (b"", "unreadable")  # it is being written


@contextmanager
def open_local_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a regular file that is no link, open for reading. Raises DamagedArchive for anything else."""
    try:
        file = open(_opened(path), "rb")  # noqa: SIM115 - a descriptor; closed below
    except (OSError, ValueError) as error:
        raise DamagedArchive(f"{path} cannot be opened ({error})") from error
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise DamagedArchive(f"{path} is not a regular file")
        yield cast("BinaryIO", file)


def _opened(path: Path) -> int:
    # Opened without following a link and without waiting on a pipe; asked what it is only once it is open.
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
