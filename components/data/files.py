"""Writing a local file so that a reader, and a crash, sees the old one or the new one, never a part."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

TEMPORARY_SUFFIX = ".partial"


@contextmanager
def unpublished(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Yield a new file in `folder`, open for writing, and its path; it is flushed to disk, then removed at the end.

    Give it its name with `publish` inside the block. The folder is made if it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    try:
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
