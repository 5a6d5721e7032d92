"""Archives of images. Nothing is ever extracted to a path that an archive chose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from components.data.sources.boxes import Box
from components.data.sources.caps import Allowance
from components.data.sources.tars import COMPRESSED_SUFFIXES, Tar, unpacked_tar
from components.data.sources.zips import Zip

ARCHIVE_SUFFIXES = (".zip", ".tar", *COMPRESSED_SUFFIXES)


def is_archive(name: str) -> bool:
    """Return whether a file's name is that of an archive we read."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def archive_stem(name: str) -> str:
    """Return the name of an archive without its suffix."""
    suffix = next(suffix for suffix in ARCHIVE_SUFFIXES if name.lower().endswith(suffix))
    return name[: -len(suffix)]


@contextmanager
def opened_archive(file: BinaryIO, name: str, allowance: Allowance) -> Iterator[Box]:
    """Yield the archive in `file` (open for reading, seekable), of the kind that its `name` says.

    Raises DataError where a compressed one unpacks to more than `allowance`, DamagedArchive where it is none.
    """
    lowered = name.lower()
    if lowered.endswith(".zip"):
        yield Zip(file, name, allowance)
    elif lowered.endswith(".tar"):
        yield Tar(file, name, allowance)
    else:
        with unpacked_tar(file, name, allowance) as tar:
            yield Tar(tar, name, allowance)
