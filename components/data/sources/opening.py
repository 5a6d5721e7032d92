"""Where images come from: one word or path in, a stream of files out, in an order that never changes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from components.data.decoding.decode import ImageLimits
from components.data.sources.archives import ARCHIVE_SUFFIXES, is_archive
from components.data.sources.caps import ArchiveLimits
from components.data.sources.columns import ColumnNames
from components.data.sources.datasets import digits_entries, fashion_mnist_entries, torchvision_entries
from components.data.sources.folders import LocalFolder, look_at_local_file, read_local_file
from components.data.sources.item import IMAGE_SUFFIXES, Content, SourceEntry, SourceItem, looks_like_image, printable
from components.data.sources.listed import LocalFilesBeside, RemoteFilesBeside, listed_entries
from components.data.sources.lists import LIST_SUFFIXES, read_list
from components.data.sources.read_ahead import read_items
from components.data.sources.remote import Remote, RemoteFolder
from components.data.sources.seen import SeenFiles, stamp, stamp_within
from components.data.sources.tree import archive_entries, folder_entries
from components.errors import ConfigurationError

__all__ = ["SourceItem", "list_source", "open_source"]

_ACCEPTED = (
    "accepted are fashion-mnist, digits, torchvision:NAME, a folder, an archive "
    f"({', '.join(ARCHIVE_SUFFIXES)}), a list ({', '.join(LIST_SUFFIXES)}), an image file, or an fsspec URL of those"
)
_TORCHVISION = "torchvision:"
_UNSUPPORTED = (".rar", ".7z", ".tar.lz4", ".tar.lzma", ".tar.br", ".tar.z", ".gz", ".bz2", ".xz", ".zst")
_NO_COLUMNS = ColumnNames()


def open_source(
    spec: str,
    *,
    limits: ImageLimits,
    cache: Path,
    columns: ColumnNames = _NO_COLUMNS,
    seen: SeenFiles | None = None,
) -> Iterator[SourceItem]:
    """Return the files of the source called `spec`, lazily, sorted by name (a named data set: in its own order).

    cache: where downloads are kept. columns: what a list calls its columns. Files that cannot be used come as items
    with a `problem`; those that `seen` knows come unread. Raises ConfigurationError, before anything is read, for a
    source that does not exist, is of no known kind, or is given columns and is no list.
    """
    entries = list_source(spec, limits=limits, cache=cache, columns=columns)
    return read_items(entries, None if seen is None else seen.find)


def list_source(
    spec: str, *, limits: ImageLimits, cache: Path, columns: ColumnNames = _NO_COLUMNS, fetch: bool = True
) -> Iterator[SourceEntry]:
    """Return the files of a source as `open_source` does, listed and not read.

    fetch: whether a named data set that is not on this machine is downloaded; without, it is a DataError.
    """
    named = _named(spec, cache, fetch)
    if named is not None:
        _refuse_columns(columns, spec)
        return named
    if "://" not in spec or spec.startswith(("file://", "local://")):
        return _list_local(spec, limits, columns)
    return _list_remote(spec, limits, columns)


def _named(spec: str, cache: Path, fetch: bool) -> Iterator[SourceEntry] | None:
    if spec == "fashion-mnist":
        return fashion_mnist_entries(cache, fetch=fetch)
    if spec == "digits":
        return digits_entries()
    if spec.startswith(_TORCHVISION):
        return torchvision_entries(spec.removeprefix(_TORCHVISION), cache, fetch=fetch)
    return None


def _list_local(spec: str, limits: ImageLimits, columns: ColumnNames) -> Iterator[SourceEntry]:
    if not spec or "\x00" in spec:
        raise ConfigurationError(f"source {spec!r} is not a path; {_ACCEPTED}")
    path = Path(spec.partition("://")[2] if "://" in spec else spec).expanduser()
    if path.is_dir():
        return folder_entries(LocalFolder(path), path.resolve().name, limits, ArchiveLimits(), columns)
    if not path.is_file():
        raise ConfigurationError(f"source {spec!r} does not exist; {_ACCEPTED}")
    if is_archive(path.name):
        return _local_archive(path, limits, columns)
    if path.name.lower().endswith(LIST_SUFFIXES):
        return _local_list(path, limits, columns)
    if looks_like_image(path.name):
        _refuse_columns(columns, spec)
        return _local_image(path, limits)
    raise _unknown_kind(spec)


def _local_archive(path: Path, limits: ImageLimits, columns: ColumnNames) -> Iterator[SourceEntry]:
    with path.open("rb") as file:
        outer = stamp(str(path), os.fstat(file.fileno()))
        for entry in archive_entries(file, path.name, limits, ArchiveLimits(), columns):
            yield entry if outer is None else replace(entry, stamp=stamp_within(outer, entry.name))


def _local_list(path: Path, limits: ImageLimits, columns: ColumnNames) -> Iterator[SourceEntry]:
    with path.open("rb") as file:
        images = read_list(file, path.name, columns)
    yield from listed_entries(images, path.name, LocalFilesBeside(path.parent, limits.max_bytes))


def _local_image(path: Path, limits: ImageLimits) -> Iterator[SourceEntry]:
    target = path.resolve()

    def read() -> Content:
        return read_local_file(target, limits.max_bytes)

    yield SourceEntry(printable(path.name), read, look=lambda: look_at_local_file(target, limits.max_bytes))


def _list_remote(spec: str, limits: ImageLimits, columns: ColumnNames) -> Iterator[SourceEntry]:
    try:
        remote = Remote(spec)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}; {_ACCEPTED}") from error
    name = remote.path.rstrip("/").rpartition("/")[2]
    known = is_archive(name) or name.lower().endswith((*LIST_SUFFIXES, *IMAGE_SUFFIXES))
    # Asked in this order since over HTTP whether something is a folder is found out by fetching it.
    if not (known and remote.is_file(remote.root)):
        if remote.path == remote.root and remote.is_folder(remote.root):  # none has a query
            return folder_entries(RemoteFolder(remote, remote.root), name, limits, ArchiveLimits(), columns)
        if not remote.is_file(remote.root):
            raise ConfigurationError(f"source {remote.url!r} does not exist; {_ACCEPTED}")
        raise _unknown_kind(remote.url)
    if is_archive(name):
        return _remote_archive(remote, name, limits, columns)
    if name.lower().endswith(LIST_SUFFIXES):
        return _remote_list(remote, name, limits, columns)
    _refuse_columns(columns, remote.url)
    return iter([SourceEntry(printable(name), lambda: remote.read(remote.root, limits.max_bytes))])


def _remote_archive(remote: Remote, name: str, limits: ImageLimits, columns: ColumnNames) -> Iterator[SourceEntry]:
    with remote.open(remote.root) as file:
        yield from archive_entries(file, name, limits, ArchiveLimits(), columns)


def _remote_list(remote: Remote, name: str, limits: ImageLimits, columns: ColumnNames) -> Iterator[SourceEntry]:
    with remote.open(remote.root) as file:
        images = read_list(file, name, columns)
    beside = RemoteFilesBeside(remote, remote.path.rpartition("/")[0], limits.max_bytes)
    yield from listed_entries(images, name, beside)


def _refuse_columns(columns: ColumnNames, spec: str) -> None:
    if columns.given():
        raise ConfigurationError(f"source {spec!r} is no list; --column is for the columns of a list")


def _unknown_kind(spec: str) -> ConfigurationError:
    hint = "unpack it first; " if spec.lower().endswith(_UNSUPPORTED) else ""
    return ConfigurationError(f"source {spec!r} is of no known kind; {hint}{_ACCEPTED}")
