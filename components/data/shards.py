"""Append-only shards of encoded images: uncompressed Arrow IPC files, memory-mapped where they are local."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa

from components.data.descriptor import DESCRIPTOR_BYTES
from components.data.files import publish, unpublished
from components.errors import RESTORE, IntegrityError

SHARD_SCHEMA = pa.schema([pa.field("image_id", pa.string(), False), pa.field("content", pa.large_binary(), False)])
DESCRIBED_SCHEMA = pa.schema(
    [
        *SHARD_SCHEMA,
        pa.field("width", pa.int32(), False),
        pa.field("height", pa.int32(), False),
        pa.field("descriptor", pa.binary(DESCRIPTOR_BYTES), False),
    ]
)
"""Of a dataset's shards: what was learnt of every image when it was decoded to be checked."""
SHARD_SUFFIX = ".arrow"

ShardRow = tuple[str, bytes] | tuple[str, bytes, int, int, bytes]

_BATCH_BYTES = 8 * 1024 * 1024
_OPEN_LOCAL = 256  # a mapping costs an address range and nothing else
_OPEN_REMOTE = 4  # these are held in memory


def write_shard(
    folder: Path | str, rows: Iterable[ShardRow], name: str | None = None, schema: pa.Schema = SHARD_SCHEMA
) -> str:
    """Write (image id, encoded bytes, …) rows as one shard in `folder`, a path or an fsspec URL; return its file name.

    Without `name` the shard is called by the first 24 hexadecimal digits of the SHA-256 over its ids, so the same
    images give the same file. `name` may hold subfolders. The file appears whole or not at all; rows are written as
    they come, in parts of 8 MiB (a remote shard is held in memory until it is sent in one request).
    """
    digest = hashlib.sha256()
    filesystem, root = _locate(folder)
    if filesystem is None:
        with unpublished(root) as (file, temporary):
            _write_rows(file, rows, digest, schema)
            chosen = name or _content_name(digest)
            publish(file, temporary, root / _checked_name(chosen))
        return chosen
    buffer = pa.BufferOutputStream()
    _write_rows(buffer, rows, digest, schema)
    chosen = name or _content_name(digest)
    target = f"{root}/{_checked_name(chosen)}"
    filesystem.makedirs(target.rpartition("/")[0], exist_ok=True)
    filesystem.pipe_file(target, buffer.getvalue().to_pybytes())
    return chosen


class ShardReader:
    """Random access to the shards of one folder (a path or an fsspec URL), from any number of threads; picklable."""

    def __init__(self, folder: Path | str, remedy: str = RESTORE) -> None:
        """Give access to `folder`; remedy: what an error tells a person to do about damage there."""
        self.folder = folder
        self._remedy = remedy
        self._prepare()

    def read(self, shard: str, row: int) -> bytes:
        """Return the bytes in `row` of `shard`. Raises IntegrityError if the shard is missing, damaged or shorter."""
        contents = self._table(shard).column("content")
        if not 0 <= row < len(contents):
            raise IntegrityError(
                f"shard {shard} in {self.folder} has {len(contents)} rows, row {row} was asked for; {self._remedy}"
            )
        content: bytes = contents[row].as_py()
        return content

    def read_verified(self, shard: str, row: int, image_id: str) -> bytes:
        """Return the bytes in `row` of `shard`, whose SHA-256 is `image_id`. Raises IntegrityError if it is not."""
        content = self.read(shard, row)
        if not content:
            raise IntegrityError(f"image {image_id}, row {row} of shard {shard}, was recalled; its bytes are erased")
        found = hashlib.sha256(content).hexdigest()
        if found != image_id:
            raise IntegrityError(
                f"row {row} of shard {shard} in {self.folder} should be image {image_id} and is {found}; {self._remedy}"
            )
        return content

    def column(self, shard: str, name: str) -> pa.ChunkedArray | None:
        """Return one column of a shard, by row; None where it was written without it. Raises IntegrityError likewise.

        Of a local shard only the pages of that column are read.
        """
        table = self._table(shard)
        return table.column(name) if name in table.schema.names else None

    def _table(self, shard: str) -> Any:
        with self._lock:
            table = self._open.get(shard)
            if table is not None:
                self._open.move_to_end(shard)
                return table
        table = self._load(shard)
        with self._lock:
            self._open[shard] = table
            while len(self._open) > self._most:
                self._open.popitem(last=False)
        return table

    def _load(self, shard: str) -> Any:
        where = f"shard {shard} in {self.folder}"
        try:
            relative = _checked_name(shard)
            if self._filesystem is None:
                source = pa.memory_map(str(self._root / relative))
            else:
                source = pa.BufferReader(self._filesystem.cat_file(f"{self._root}/{relative}"))
            table = pa.ipc.open_file(source).read_all()
            table.validate(full=True)  # a wrong offset would lead out of the file
        except FileNotFoundError as error:
            raise IntegrityError(f"{where} is missing; {self._remedy}") from error
        except (pa.ArrowException, OSError, ValueError) as error:
            raise IntegrityError(f"{where} cannot be read ({_one_line(error)}); {self._remedy}") from error
        if not any(table.schema.equals(schema) for schema in (SHARD_SCHEMA, DESCRIBED_SCHEMA)):
            raise IntegrityError(f"{where} has columns {table.schema.names}, not {SHARD_SCHEMA.names}; {self._remedy}")
        return table

    def _prepare(self) -> None:
        self._filesystem, self._root = _locate(self.folder)
        self._most = _OPEN_LOCAL if self._filesystem is None else _OPEN_REMOTE
        self._open: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "remedy": self._remedy}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.folder, self._remedy = state["folder"], state["remedy"]
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


def _write_rows(sink: BinaryIO | Any, rows: Iterable[ShardRow], digest: Any, schema: pa.Schema) -> None:
    with pa.ipc.new_file(sink, schema) as writer:
        for part in _parts(rows):
            columns = list(zip(*part, strict=True))
            digest.update("\n".join((*columns[0], "")).encode())
            arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def _parts(rows: Iterable[ShardRow]) -> Iterator[list[ShardRow]]:
    part: list[ShardRow] = []
    size = 0
    for row in rows:
        part.append(row)
        size += len(row[1])
        if size >= _BATCH_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
