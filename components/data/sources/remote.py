"""Files behind fsspec URLs. Whatever a backend raises becomes one line that names the URL, without credentials."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import unquote

from components.data.sources.boxes import Member, spooled
from components.data.sources.caps import MEBIBYTE, Allowance, ArchiveLimits
from components.data.sources.item import Content, ignored, unsafe_path
from components.errors import ConfigurationError, DataError, PerennialError

_Result = TypeVar("_Result")
_FORBIDDEN = (401, 403)
_GONE = (404, 410)
_LONGEST_REASON = 300


def without_credentials(url: str) -> str:
    """Return a URL without user, password and query, in which keys and signatures travel; a path as it is."""
    if "://" not in url:
        return url
    shown = re.sub(r"(://)[^/?#]*@", r"\1", url)
    return re.sub(r"[?#].*$", "", shown)


class Remote:
    """The file system behind `url`, and where in it that leads: `root`, as the system takes it, `path` without a query.

    Raises ConfigurationError for a protocol that is not known or whose package is not installed.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = without_credentials(url)
        self._secrets = _secrets(url)
        try:
            self._system, self.root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            extra = " (pip install 'perennial[s3]')" if url.startswith(("s3:", "s3a:")) else ""
            raise ConfigurationError(f"source {self.url!r} cannot be opened: {self._reason(error)}{extra}") from error
        except Exception as error:
            raise self._broken("cannot be opened", error) from error
        protocol = self._system.protocol
        self._http = "http" in ((protocol,) if isinstance(protocol, str) else protocol)
        self.path = re.sub(r"[?#].*$", "", self.root) if self._http else self.root
        self.concurrent = bool(self._system.async_impl)  # others may have one connection, of one thread

    def is_file(self, path: str) -> bool:
        """Return whether there is a file at `path`. Raises DataError where the server does not say."""
        if not self._http:
            return bool(self.asked("cannot be reached", lambda: self._system.isfile(path)))
        try:  # its `isfile` takes whatever goes wrong for a no
            self._system.info(path)
        except Exception as error:
            if _is_gone(true := self._true(error)):
                return False
            raise self._broken("cannot be reached", true) from error
        return True

    def is_folder(self, path: str) -> bool:
        """Return whether there is a folder at `path`."""
        return bool(self.asked("cannot be reached", lambda: self._system.isdir(path)))

    def files(self, root: str) -> Iterator[tuple[str, str, int | None]]:
        """Yield (path, name relative to `root`, size or None) of every file below it."""
        found = self.asked("cannot be listed", lambda: self._system.find(root, detail=True))
        for path, info in found.items():
            name = path.removeprefix(root.rstrip("/") + "/")
            size = info.get("size")
            yield path, unquote(name) if self._http else name, None if size is None else int(size)

    def read(self, path: str, max_bytes: int, size: int | None = None) -> Content:
        """Return the bytes at `path`, or missing-file, unreadable (forbidden) or too-many-bytes; `size` where known.

        Raises DataError for everything else: a server that went away must not cost the rest of the source's files.
        """
        if size is not None and size > max_bytes:
            return b"", "too-many-bytes"
        try:
            content = self._first_bytes(path, max_bytes + 1)
        except Exception as error:
            true = self._true(error)
            if _is_gone(true):
                return b"", "missing-file"
            if isinstance(true, PermissionError | IsADirectoryError) or getattr(true, "status", None) in _FORBIDDEN:
                return b"", "unreadable"
            raise self._broken("broke off", true) from error
        if size is not None and len(content) < size:
            raise self._broken("broke off", f"{len(content)} of {size} bytes of {path.rpartition('/')[2]!r} came")
        return (content, None) if len(content) <= max_bytes else (b"", "too-many-bytes")

    @contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        """Yield the file at `path`, seekable: fetched whole into a temporary file where the server gives no parts."""
        with self.asked("cannot be reached", lambda: self._system.open(path, "rb")) as opened:
            file = io.BufferedReader(cast("io.RawIOBase", _Raw(opened, self)))
            if opened.seekable():
                yield cast("BinaryIO", file)
                return
            allowance = Allowance(ArchiveLimits())
            allowance.admit(allowance.caps.max_total_bytes)
            with spooled(iter(lambda: file.read(MEBIBYTE), b""), self.url, allowance) as fetched:
                yield fetched

    def _first_bytes(self, path: str, most: int) -> bytes:
        if not self._http:
            return bytes(self._system.cat_file(path, start=0, end=most))
        # A server that knows no ranges sends everything, and `cat_file` would take it.
        with self._system.open(path, "rb", block_size=0) as file:
            parts = []
            while most > 0 and (part := file.read(most)):
                parts.append(part)
                most -= len(part)
            return b"".join(parts)

    def asked(self, failed: str, ask: Callable[[], _Result]) -> _Result:
        """Return what `ask` returns. Raises DataError, one line that says what `failed`, for whatever it raises."""
        try:
            return ask()
        except Exception as error:  # every backend has its own tree of exceptions, aiohttp's and botocore's among them
            if isinstance(error, PerennialError):
                raise
            raise self._broken(failed, self._true(error)) from error

    def _true(self, error: BaseException) -> BaseException:
        """Return what really happened: over HTTP, FileNotFoundError is fsspec's word for every failure."""
        cause = error.__cause__
        return cause if self._http and isinstance(error, FileNotFoundError) and cause is not None else error

    def _broken(self, failed: str, error: BaseException | str) -> DataError:
        return DataError(f"source {self.url!r} {failed}: {self._reason(error)}; run it again")

    def _reason(self, error: BaseException | str) -> str:
        text = " ".join(str(error).split()) or type(error).__name__
        text = re.sub(r"[a-z][a-z0-9+]*://[^\s'\"]+", lambda found: without_credentials(found[0]), text)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text[:_LONGEST_REASON]


class RemoteFolder:
    """Every file below `root` of a remote file system, hidden ones passed over."""

    def __init__(self, remote: Remote, root: str) -> None:
        self._remote = remote
        self._root = root
        self._paths: list[str] = []
        self.apart = remote.concurrent

    def members(self) -> list[Member]:
        """Return all files below the folder. Raises DataError if it cannot be listed."""
        found = [entry for entry in self._remote.files(self._root) if not ignored(entry[1])]
        self._paths = [path for path, _, _ in found]
        return [
            Member(name, size, place, "unsafe-path" if unsafe_path(name) else None)
            for place, (_, name, size) in enumerate(found)
        ]

    def read(self, member: Member, max_bytes: int) -> Content:
        """Return a file's bytes, or the problem that sets it aside."""
        return self._remote.read(self._paths[member.place], max_bytes, member.size)

    def open(self, member: Member) -> AbstractContextManager[BinaryIO]:
        """Return a context with a file, opened."""
        return self._remote.open(self._paths[member.place])


class _Raw(io.RawIOBase):
    """A remote file whose errors are told as the remote's."""

    def __init__(self, file: Any, remote: Remote) -> None:
        self._file = file
        self._remote = remote

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def seek(self, position: int, whence: int = 0) -> int:
        return int(self._remote.asked("broke off", lambda: self._file.seek(position, whence)))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        data = self._remote.asked("broke off", lambda: self._file.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)


def _is_gone(error: BaseException) -> bool:
    return isinstance(error, FileNotFoundError) or getattr(error, "status", None) in _GONE


def _secrets(url: str) -> list[str]:
    """Return the parts of a URL that no message may hold."""
    found = re.search(r"://([^/?#]*)@", url)
    parts = [*(found[1].split(":") if found else []), *re.findall(r"[?&][^=&#]*=([^&#]+)", url)]
    return sorted({text for part in parts for text in (part, unquote(part)) if len(text) > 2}, key=len, reverse=True)
