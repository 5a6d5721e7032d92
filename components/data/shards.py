"""Append-only shards of encoded images: uncompressed Arrow IPC files, memory-mapped where they are local."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa

from components.data.files import publish, unpublished
from components.errors import IntegrityError

SHARD_SCHEMA = pa.schema([pa.field("image_id", pa.string(), False), pa.field("content", pa.large_binary(), False)])
SHARD_SUFFIX = ".arrow"

_BATCH_BYTES = 8 * 1024 * 1024
_OPEN_LOCAL = 256  # a mapping costs an address range and nothing else
_OPEN_REMOTE = 4  # these are held in memory


def write_shard(folder: Path | str, rows: Iterable[tuple[str, bytes]], name: str | None = None) -> str:
    """Write (image id, encoded bytes) rows as one shard in `folder`, a path or an fsspec URL, and return its file name.

    Without `name` the shard is called by the first 24 hexadecimal digits of the SHA-256 over its ids, so the same
    images give the same file. `name` may hold subfolders. The file appears whole or not at all; rows are written as
    they come, in parts of 8 MiB (a remote shard is held in memory until it is sent in one request).
    """
    digest = hashlib.sha256()
    filesystem, root = _locate(folder)
    if filesystem is None:
        with unpublished(root) as (file, temporary):
            _write_rows(file, rows, digest)
            chosen = name or _content_name(digest)
            publish(file, temporary, root / _checked_name(chosen))
        return chosen
    buffer = pa.BufferOutputStream()
    _write_rows(buffer, rows, digest)
    chosen = name or _content_name(digest)
    target = f"{root}/{_checked_name(chosen)}"
    filesystem.makedirs(target.rpartition("/")[0], exist_ok=True)
    filesystem.pipe_file(target, buffer.getvalue().to_pybytes())
    return chosen


class ShardReader:
    """Random access to the shards of one folder (a path or an fsspec URL), from any number of threads; picklable."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = folder
        self._prepare()

    def read(self, shard: str, row: int) -> bytes:
        """Return the bytes in `row` of `shard`. Raises IntegrityError if the shard is missing, damaged or shorter."""
        contents = self._contents(shard)
        if not 0 <= row < len(contents):
            raise IntegrityError(
                f"shard {shard} in {self.folder} has {len(contents)} rows, row {row} was asked for; restore it"
            )
        content: bytes = contents[row].as_py()
        return content

    def read_verified(self, shard: str, row: int, image_id: str) -> bytes:
        """Return the bytes in `row` of `shard`, whose SHA-256 is `image_id`. Raises IntegrityError if it is not."""
        content = self.read(shard, row)
        found = hashlib.sha256(content).hexdigest()
        if found != image_id:
            raise IntegrityError(
                f"row {row} of shard {shard} in {self.folder} should be image {image_id} and is {found}; "
                "restore the shard from the remote"
            )
        return content

    def _contents(self, shard: str) -> Any:
        with self._lock:
            contents = self._open.get(shard)
            if contents is not None:
                self._open.move_to_end(shard)
                return contents
        contents = self._load(shard)
        with self._lock:
            self._open[shard] = contents
            while len(self._open) > self._most:
                self._open.popitem(last=False)
        return contents

    def _load(self, shard: str) -> Any:
        where = f"shard {shard} in {self.folder}"
        try:
            relative = _checked_name(shard)
            if self._filesystem is None:
                source = pa.memory_map(str(self._root / relative))
            else:
                source = pa.BufferReader(self._filesystem.cat_file(f"{self._root}/{relative}"))
            table = pa.ipc.open_file(source).read_all()
        except FileNotFoundError as error:
            raise IntegrityError(f"{where} is missing; restore it from the remote") from error
        except (pa.ArrowException, OSError) as error:
            raise IntegrityError(f"{where} cannot be read ({_one_line(error)}); restore it from the remote") from error
        if not table.schema.equals(SHARD_SCHEMA):
            raise IntegrityError(f"{where} has columns {table.schema.names}, not {SHARD_SCHEMA.names}; restore it")
        return table.column("content")

    def _prepare(self) -> None:
        self._filesystem, self._root = _locate(self.folder)
        self._most = _OPEN_LOCAL if self._filesystem is None else _OPEN_REMOTE
        self._open: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.folder = state["folder"]
        self._prepare()


def _locate(folder: Path | str) -> tuple[Any, Any]:
    """Return (None, Path) for a local folder, else (fsspec file system, path within it)."""
    if isinstance(folder, Path) or "://" not in folder:
        return None, Path(folder)
    if folder.startswith(("file://", "local://")):
        return None, Path(folder.partition("://")[2])
    import fsspec

    filesystem, root = fsspec.core.url_to_fs(folder)
    return filesystem, root.rstrip("/")


def _checked_name(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\x00" in name:
        raise IntegrityError(f"shard name {name!r} leaves its folder; it was not written by this program")
    return name


def _content_name(digest: Any) -> str:
    return str(digest.hexdigest()[:24]) + SHARD_SUFFIX


def _write_rows(sink: BinaryIO | Any, rows: Iterable[tuple[str, bytes]], digest: Any) -> None:
    with pa.ipc.new_file(sink, SHARD_SCHEMA) as writer:
        for ids, contents in _parts(rows):
            digest.update("\n".join((*ids, "")).encode())
            writer.write_batch(
                pa.record_batch(
                    [pa.array(ids, pa.string()), pa.array(contents, pa.large_binary())], schema=SHARD_SCHEMA
                )
            )


def _parts(rows: Iterable[tuple[str, bytes]]) -> Iterator[tuple[list[str], list[bytes]]]:
    ids: list[str] = []
    contents: list[bytes] = []
    size = 0
    for image_id, content in rows:
        ids.append(image_id)
        contents.append(content)
        size += len(content)
        if size >= _BATCH_BYTES:
            yield ids, contents
            ids, contents, size = [], [], 0
    if ids:
        yield ids, contents


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
