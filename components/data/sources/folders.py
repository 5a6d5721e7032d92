"""Folders of images, local or behind an fsspec URL."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.data.decode import ImageLimits
from components.data.sources.item import Layout, SourceItem, ignored, printable
from components.errors import DataError


def read_local_folder(folder: Path, limits: ImageLimits) -> Iterator[SourceItem]:
    """Yield every file below `folder`, by name. Links are never followed; hidden files are passed over.

    Raises DataError if the folder itself cannot be listed.
    """
    names = sorted(_walk(folder))
    layout = Layout(names)
    for name in names:
        content, problem = read_local_file(folder / name, limits.max_bytes)
        yield SourceItem(printable(name), content, layout.label(name), problem=problem)


def read_local_file(path: Path, max_bytes: int) -> tuple[bytes, str | None]:
    """Return (content, None), or (b"", problem). Only a regular file is read, and at most `max_bytes` of it."""
    try:
        # Opened without following a link and without waiting on a pipe; asked what it is only once it is open.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
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


def read_remote_folder(filesystem: Any, root: str, limits: ImageLimits) -> Iterator[SourceItem]:
    """Yield every file below `root` of an fsspec file system, by name."""
    prefix = root.rstrip("/") + "/"
    found = {path.removeprefix(prefix): info for path, info in filesystem.find(root, detail=True).items()}
    names = sorted(name for name in found if not ignored(name))
    layout = Layout(names)
    for name in names:
        content, problem = read_remote_file(filesystem, prefix + name, limits.max_bytes, found[name].get("size"))
        yield SourceItem(printable(name), content, layout.label(name), problem=problem)


def read_remote_file(filesystem: Any, path: str, max_bytes: int, size: int | None = None) -> tuple[bytes, str | None]:
    """Return (content, None), or (b"", problem), of a file of an fsspec file system; `size` where it is known."""
    if size is not None and size > max_bytes:
        return b"", "too-many-bytes"
    try:
        content: bytes = filesystem.cat_file(path, start=0, end=max_bytes + 1)
    except FileNotFoundError:
        return b"", "missing-file"
    except OSError:
        return b"", "unreadable"
    return (content, None) if len(content) <= max_bytes else (b"", "too-many-bytes")


def _walk(folder: Path) -> Iterator[str]:
    pending = [""]
    while pending:
        inside = pending.pop()
        try:
            with os.scandir(folder / inside) as entries:
                for entry in entries:
                    name = f"{inside}{entry.name}"
                    if ignored(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(name + "/")
                    else:
                        yield name
        except OSError as error:
            raise DataError(f"{folder / inside} cannot be listed ({error.strerror}); make it readable") from error
