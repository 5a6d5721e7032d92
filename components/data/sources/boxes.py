"""What folders and archives have in common: they list their files, and give one after the other."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Protocol, cast

from components.data.sources.caps import MEBIBYTE, Allowance
from components.data.sources.item import Content
from components.errors import DataError

_KEPT_FREE = 1024 * MEBIBYTE
_CHECK_EVERY = 64 * MEBIBYTE


@dataclass(slots=True)
class Member:
    """One file of a box. name: as it is written there. size: in bytes, None where unknown. place: the box's own.

    stamp: what tells its state from any other, where a box knows that without reading.
    """

    name: str
    size: int | None
    place: int = 0
    problem: str | None = None
    stamp: bytes | None = None


class Box(Protocol):
    """A folder, a remote folder or an archive. apart: whether members may be read any time, and in any thread."""

    apart: bool

    def members(self) -> list[Member]:
        """Return all files, links and devices in the box, in any order. Raises DataError if it cannot be listed."""

    def read(self, member: Member, max_bytes: int) -> Content:
        """Return the bytes of a member without a problem, at most `max_bytes` of them, or the problem found now."""

    def open(self, member: Member) -> AbstractContextManager[BinaryIO]:
        """Return a context with a member, however large, as a seekable file; for lists and archives in the box."""


@contextmanager
def spooled(chunks: Iterable[bytes], name: str, allowance: Allowance) -> Iterator[BinaryIO]:
    """Yield `chunks`, each counted, as a nameless temporary file. Raises DataError where the disk has no room."""
    with tempfile.TemporaryFile() as file:
        unchecked = _CHECK_EVERY
        for chunk in chunks:
            allowance.take_unpacked(name, len(chunk))
            unchecked += len(chunk)
            if unchecked >= _CHECK_EVERY:  # databases may share the disk: it is never filled
                unchecked = 0
                if shutil.disk_usage(tempfile.gettempdir()).free < _KEPT_FREE:
                    raise _no_room(name, f"less than {_KEPT_FREE} bytes would be left")
            try:
                file.write(chunk)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
                raise _no_room(name, str(error.strerror)) from error
        file.seek(0)
        yield cast("BinaryIO", file)


def _no_room(name: str, why: str) -> DataError:
    folder = tempfile.gettempdir()
    return DataError(f"{name} does not fit into {folder} unpacked ({why}); make room, or set TMPDIR to a larger folder")
