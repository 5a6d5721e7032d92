"""The files that a list names: beside it on this machine, or beside it behind a URL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Protocol

from components.data.sources.folders import look_at_local_file, read_local_file
from components.data.sources.item import Content, SourceEntry, printable, unsafe_path
from components.data.sources.lists import ImageList, ListedImage
from components.data.sources.remote import Remote


class FilesBeside(Protocol):
    """The files that lie beside a list, by their paths relative to it, none of them unsafe; apart: as of a Box."""

    apart: bool

    def read(self, path: str) -> Content:
        """Return a file's bytes, or the problem that sets it aside."""

    def look(self, path: str) -> tuple[int | None, str | None]:
        """Return (size, problem) of a file, unread; (None, None) where looking would cost as much as reading."""


class LocalFilesBeside:
    """Files below `folder` on this machine, none of them through a link."""

    apart = True

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder.resolve()
        self._max_bytes = max_bytes

    def read(self, path: str) -> Content:
        """Return a file's bytes, or the problem that sets it aside."""
        target = self._folder / path
        return (b"", "symlink") if self._linked(target) else read_local_file(target, self._max_bytes)

    def look(self, path: str) -> tuple[int | None, str | None]:
        """Return (size, problem) of a file, unread."""
        target = self._folder / path
        return (None, "symlink") if self._linked(target) else look_at_local_file(target, self._max_bytes)

    @staticmethod
    def _linked(target: Path) -> bool:
        return os.path.realpath(target) != str(target)  # a link on the way could lead out of the folder


class RemoteFilesBeside:
    """Files below `folder` of a remote file system."""

    def __init__(self, remote: Remote, folder: str, max_bytes: int) -> None:
        self._remote = remote
        self._folder = folder
        self._max_bytes = max_bytes
        self.apart = remote.concurrent

    def read(self, path: str) -> Content:
        """Return a file's bytes, or the problem that sets it aside."""
        return self._remote.read(f"{self._folder}/{path}", self._max_bytes)

    def look(self, path: str) -> tuple[int | None, str | None]:  # noqa: ARG002 - of the protocol
        """Return nothing known: one request a file is what reading costs."""
        return None, None


def listed_entries(images: ImageList, name: str, files: FilesBeside) -> Iterator[SourceEntry]:
    """Yield the images of a list called `name`, by path; a row that cannot be used comes with its problem."""
    read = lru_cache(1)(files.read)  # the opinions about one image come in a row
    for image in images:
        yield SourceEntry(
            name_of_row(image, name, image.path), partial(read, image.path), None, image.label, image.group,
            image.captured_at, problem_of_row(image), partial(files.look, image.path), annotator=image.annotator,
            apart=files.apart,
        )  # fmt: skip


def problem_of_row(image: ListedImage) -> str | None:
    """Return what is wrong with a row, unread, or None."""
    return image.problem or ("unsafe-path" if unsafe_path(image.path) else None)


def name_of_row(image: ListedImage, list_name: str, path: str) -> str:
    """Return what a row's file is called: its path, or where the row is if it names none."""
    if not image.path:
        return printable(f"{list_name}: row {image.number}")
    plain = "/" not in path or not ("//" in path or "./" in path or "/." in path or path.endswith("/"))
    return printable(path if plain or unsafe_path(image.path) else str(PurePosixPath(path)))
