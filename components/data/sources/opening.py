"""Where images come from: one word or path in, a stream of files out, in an order that never changes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from components.data.decode import ImageLimits
from components.data.sources.archives import ARCHIVE_SUFFIXES, ArchiveLimits, read_archive
from components.data.sources.datasets import digits_items, fashion_mnist_items, torchvision_items
from components.data.sources.folders import read_local_file, read_local_folder, read_remote_file, read_remote_folder
from components.data.sources.item import SourceItem, printable
from components.data.sources.tabular import TABLE_SUFFIXES, read_table
from components.errors import ConfigurationError, DataError

__all__ = ["SourceItem", "open_source"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm")

_ACCEPTED = (
    "accepted are fashion-mnist, digits, torchvision:NAME, a folder, an archive "
    f"({', '.join(ARCHIVE_SUFFIXES)}), a list ({', '.join(TABLE_SUFFIXES)}), an image file, or an fsspec URL of those"
)
_TORCHVISION = "torchvision:"


def open_source(spec: str, *, limits: ImageLimits, cache: Path) -> Iterator[SourceItem]:
    """Return the files of the source called `spec`, lazily, sorted by name (a named data set: in its own order).

    cache: where downloads are kept. Files that cannot be used come as items with a `problem`. Raises
    ConfigurationError, before anything is read, for a source that does not exist or is of no known kind.
    """
    if spec == "fashion-mnist":
        return fashion_mnist_items(cache)
    if spec == "digits":
        return digits_items()
    if spec.startswith(_TORCHVISION):
        return torchvision_items(spec.removeprefix(_TORCHVISION), cache)
    if "://" not in spec or spec.startswith(("file://", "local://")):
        return _open_local(spec, limits)
    return _open_remote(spec, limits)


def _open_local(spec: str, limits: ImageLimits) -> Iterator[SourceItem]:
    if not spec or "\x00" in spec:
        raise ConfigurationError(f"source {spec!r} is not a path; {_ACCEPTED}")
    path = Path(spec.partition("://")[2] if "://" in spec else spec).expanduser()
    if path.is_dir():
        return read_local_folder(path, limits)
    if not path.is_file():
        raise ConfigurationError(f"source {spec!r} does not exist; {_ACCEPTED}")
    if path.name.lower().endswith(ARCHIVE_SUFFIXES):
        return _local_archive(path, limits)
    if path.name.lower().endswith(TABLE_SUFFIXES):
        return _local_table(path, limits)
    if path.name.lower().endswith(IMAGE_SUFFIXES):
        content, problem = read_local_file(path.resolve(), limits.max_bytes)
        return iter([SourceItem(printable(path.name), content, problem=problem)])
    raise ConfigurationError(f"source {spec!r} is of no known kind; {_ACCEPTED}")


def _local_archive(path: Path, limits: ImageLimits) -> Iterator[SourceItem]:
    with path.open("rb") as file:
        yield from read_archive(file, path.name, limits, ArchiveLimits())


def _local_table(path: Path, limits: ImageLimits) -> Iterator[SourceItem]:
    folder = path.resolve().parent

    def read_file(relative: str) -> tuple[bytes, str | None]:
        target = folder / relative
        if os.path.realpath(target) != str(target):  # a link on the way could lead out of the folder
            return b"", "symlink"
        return read_local_file(target, limits.max_bytes)

    with path.open("rb") as file:
        yield from read_table(file, path.name, read_file)


def _open_remote(spec: str, limits: ImageLimits) -> Iterator[SourceItem]:
    import fsspec

    try:
        filesystem, root = fsspec.core.url_to_fs(spec)
    except (ValueError, ImportError) as error:
        raise ConfigurationError(f"source {spec!r} cannot be opened: {error}; {_ACCEPTED}") from error
    try:
        if filesystem.isdir(root):
            return _guarded(read_remote_folder(filesystem, root, limits), spec)
        if not filesystem.isfile(root):
            raise ConfigurationError(f"source {spec!r} does not exist; {_ACCEPTED}")
    except OSError as error:
        raise DataError(f"source {spec!r} cannot be reached: {error}") from error
    name = root.rpartition("/")[2]
    if name.lower().endswith((*ARCHIVE_SUFFIXES, *TABLE_SUFFIXES)):
        return _guarded(_remote_file(filesystem, root, name, limits), spec)
    if name.lower().endswith(IMAGE_SUFFIXES):
        content, problem = read_remote_file(filesystem, root, limits.max_bytes)
        return iter([SourceItem(printable(name), content, problem=problem)])
    raise ConfigurationError(f"source {spec!r} is of no known kind; {_ACCEPTED}")


def _remote_file(filesystem: Any, root: str, name: str, limits: ImageLimits) -> Iterator[SourceItem]:
    folder = root.rpartition("/")[0]

    def read_file(relative: str) -> tuple[bytes, str | None]:
        return read_remote_file(filesystem, f"{folder}/{relative}", limits.max_bytes)

    with filesystem.open(root, "rb") as file:
        if name.lower().endswith(ARCHIVE_SUFFIXES):
            yield from read_archive(cast("BinaryIO", file), name, limits, ArchiveLimits())
        else:
            yield from read_table(cast("BinaryIO", file), name, read_file)


def _guarded(items: Iterator[SourceItem], spec: str) -> Iterator[SourceItem]:
    try:
        yield from items
    except OSError as error:
        raise DataError(f"source {spec!r} broke off: {error}; run it again") from error
