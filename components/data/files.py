"""Writing a local file so that a reader, and a crash, sees the old one or the new one, never a part."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from components.errors import NoSpaceError, ServiceError

TEMPORARY_SUFFIX = ".partial"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_SAID = (*(os.strerror(number) for number in FULL), "database or disk is full")  # the last one: SQLite
LEAST_FREE_BYTES = 1_000_000
"""Git and DVC fail with less, and do not always say why."""

_REMEDY = "free some space and run this again; what was there before is untouched"


@contextmanager
def unpublished(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Yield a new file in `folder`, open for writing, and its path; it is flushed to disk, then removed at the end.

    Give it its name with `publish` inside the block. The folder is made if it is missing. Raises NoSpaceError, with the
    file removed, where the disk is full.
    """
    path = folder / f".{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    try:
        with naming_a_full_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                yield file, path
    finally:
        path.unlink(missing_ok=True)


def publish(file: BinaryIO, temporary: Path, target: Path) -> None:
    """Put what was written to `file` in the place of `target`, durably: it survives a power cut, or never was."""
    file.flush()
    os.fsync(file.fileno())
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary.replace(target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def naming_a_full_disk(folder: Path) -> Iterator[None]:
    """Raise NoSpaceError in the place of the OSError of a full disk, a used up quota or a file that may not grow.

    folder: what is written to in the block, for an error that does not tell.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise NoSpaceError(f"no room to write to {error.filename or folder} ({error.strerror}); {_REMEDY}") from error


def command_failed(said: str, folder: Path) -> NoSpaceError | ServiceError:
    """Return the error that the words of a command which failed in `folder` stand for: was it for want of room?"""
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE_BYTES or any(words in said for words in _FULL_SAID):
        return NoSpaceError(f"no room to write, {free // 1000} kB are free: {said}; {_REMEDY}")
    return ServiceError(said)
