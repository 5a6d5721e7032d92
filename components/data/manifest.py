"""The manifest: one row an image, saying where its bytes lie, what it shows, and what it may be used for."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.data.files import publish, unpublished
from components.data.label_sets import decode
from components.errors import RESTORE, DataError, IntegrityError

MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), False),  # SHA-256 of the file's bytes; unique
        pa.field("shard", pa.string()),  # null where no bytes are stored (quarantined)
        pa.field("row", pa.int32()),
        pa.field("label", pa.string()),
        pa.field("split", pa.string()),
        pa.field("source", pa.string()),
        pa.field("name", pa.string()),
        pa.field("captured_at", pa.timestamp("us", tz="UTC")),
        pa.field("label_origin", pa.string()),  # given | opinions (their majority) | consensus | corrected
        pa.field("labelled_by", pa.string()),
        pa.field("group_id", pa.string()),
        pa.field("state", pa.string(), False),  # active | quarantined | held | recalled
        pa.field("reason", pa.string()),  # why a row is not active
        pa.field("window", pa.string()),  # of the prediction that was labelled
        pa.field("model_version", pa.int32()),
    ]
)
SPLITS = ("train", "validation", "test", "frozen_test", "golden")
STATES = ("active", "quarantined", "held", "recalled")

Row = dict[str, Any]

_ID_CHARACTERS = 64
_CLASSES_KEY = b"perennial.classes"
_ANNOTATIONS_KEY = b"perennial.annotations"
_SEVERAL_KEY = b"perennial.several"
_ROW_GROUP = 131_072


@dataclass(frozen=True)
class Manifest:
    """All rows, sorted by image id, and the class list whose order gives every class its index.

    annotations: SHA-256 of the file with the annotators' opinions beside it, None where there never were any.
    several: an image carries any number of the classes; its label is then a set, as of `label_sets`.
    """

    table: pa.Table
    classes: tuple[str, ...]
    annotations: str | None = None
    several: bool = False

    @classmethod
    def empty(cls) -> Manifest:
        """Return a manifest without rows and classes."""
        return cls(MANIFEST_SCHEMA.empty_table(), ())

    @classmethod
    def from_rows(cls, rows: list[dict[str, Any]], classes: tuple[str, ...]) -> Manifest:
        """Return a manifest of rows given as mappings; absent keys are null."""
        return cls(pa.Table.from_pylist(rows, MANIFEST_SCHEMA).sort_by("image_id"), classes)

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Return the manifest stored at `path`.

        Raises DataError if there is none or it is another kind of table, IntegrityError if it is damaged.
        """
        try:
            with pq.ParquetFile(path) as file:
                schema = file.schema_arrow
                table = file.read()
        except FileNotFoundError as error:
            raise DataError(f"{path} does not exist; `perennial ingest SOURCE` makes it") from error
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from error
        stored = (schema.metadata or {}).get(_CLASSES_KEY)
        if stored is None or not schema.remove_metadata().equals(MANIFEST_SCHEMA):
            raise DataError(f"{path} is not a manifest of this version: it has columns {', '.join(schema.names)}")
        annotations = schema.metadata.get(_ANNOTATIONS_KEY)
        return cls(
            table.replace_schema_metadata(None), tuple(json.loads(stored)),
            None if annotations is None else annotations.decode(), _SEVERAL_KEY in schema.metadata,
        )  # fmt: skip

    @classmethod
    def classes_at(cls, path: Path) -> tuple[str, ...]:
        """Return the class list of the manifest stored at `path`, without its rows; () where there is none."""
        if not path.exists():
            return ()
        stored = (pq.read_schema(path).metadata or {}).get(_CLASSES_KEY)
        if stored is None:
            raise DataError(f"{path} is not a manifest of this version")
        return tuple(json.loads(stored))

    def write(self, path: Path) -> None:
        """Store the manifest at `path`, whole or not at all; the same content gives the same bytes."""
        with unpublished(path.parent) as (file, temporary):
            self._encode(file)
            publish(file, temporary, path)

    def digest(self) -> str:
        """Return the SHA-256, in hexadecimal, of the bytes that `write` would store."""
        hashing = _Hashing()
        self._encode(pa.PythonFile(hashing, "w"))
        return hashing.digest.hexdigest()

    def select(self, *splits: str, state: str = "active") -> pa.Table:
        """Return the rows in one of `splits` (in any, if none is named) whose state is `state`, by image id."""
        wanted = pc.equal(self.table["state"], state)
        if splits:
            _known(splits, SPLITS, "split")
            wanted = pc.and_(wanted, pc.is_in(self.table["split"], pa.array(splits, pa.string())))
        return self.table.filter(wanted)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return active images as {split: {class: images}}, classes in their order, zeros included.

        An image of several classes counts in each of them.
        """
        counted = {split: dict.fromkeys(self.classes, 0) for split in SPLITS}
        for entry in self.select().group_by(["split", "label"]).aggregate([([], "count_all")]).to_pylist():
            for name in self.names_of(entry["label"]):
                counted[entry["split"]][name] += entry["count_all"]
        return {split: of_class for split, of_class in counted.items() if any(of_class.values())}

    def names_of(self, label: str) -> tuple[str, ...]:
        """Return the classes that a stored label names."""
        return decode(label) if self.several else (label,)

    def of_class(self, rows: pa.Table, name: str) -> pa.Table:
        """Return those of some rows whose label names a class."""
        if not self.several:
            return rows.filter(pc.equal(rows["label"], name))
        distinct = rows["label"].unique().to_pylist()
        naming = [label for label in distinct if label is not None and name in decode(label)]
        return rows.filter(pc.is_in(rows["label"], pa.array(naming, pa.string())))

    def _encode(self, sink: Any) -> None:
        metadata = {_CLASSES_KEY: json.dumps(list(self.classes), ensure_ascii=False).encode()}
        if self.annotations is not None:
            metadata[_ANNOTATIONS_KEY] = self.annotations.encode()
        if self.several:
            metadata[_SEVERAL_KEY] = b"true"
        table = by_id(self.table.cast(MANIFEST_SCHEMA))
        schema = MANIFEST_SCHEMA.with_metadata(metadata)
        with pq.ParquetWriter(sink, schema, compression="zstd", version="2.6") as writer:
            for start in range(0, max(table.num_rows, 1), _ROW_GROUP):  # a part at a time: a copy of it is made
                part = table.slice(start, _ROW_GROUP).combine_chunks().replace_schema_metadata(metadata)
                writer.write_table(part, row_group_size=_ROW_GROUP)


class _Hashing:
    """A file that keeps nothing of what is written to it but the SHA-256."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.closed = False

    def write(self, content: bytes) -> int:
        """Take the next bytes."""
        self.digest.update(content)
        return len(content)

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def by_id(rows: pa.Table) -> pa.Table:
    """Return manifest rows in the order of their image ids: `rows` itself, and no copy of it, if they are."""
    ids = rows["image_id"]
    in_order = len(ids) < 2 or pc.all(pc.less(ids.slice(0, len(ids) - 1), ids.slice(1))).as_py()
    return rows if in_order else rows.sort_by("image_id")


def find_rows(
    path: Path, image_ids: Collection[str], columns: Sequence[str] = tuple(MANIFEST_SCHEMA.names)
) -> dict[str, Row]:
    """Return the rows of a stored manifest that are about these images, by image id; others have none.

    Rows lie in the order of their ids, so only the parts of the file that may hold one are read, and of these only
    `columns`. Raises IntegrityError if it is damaged.
    """
    wanted = sorted(set(image_ids))
    found: dict[str, Row] = {}
    with _reading(path) as file:
        for group, low, high in _bounds(file):
            some = wanted[bisect_left(wanted, low) : bisect_right(wanted, high)]
            if some:
                ids = file.read_row_group(group, ["image_id"])["image_id"]
                places = pc.index_in(pa.array(some), ids).drop_null()
                if len(places):
                    there = file.read_row_group(group, list(columns)).take(places).to_pylist()
                    found.update(zip(ids.take(places).to_pylist(), there, strict=True))
    return found


def ids_from(path: Path, prefix: str, most: int) -> list[str]:
    """Return up to `most` image ids of a stored manifest that begin with `prefix`. Raises IntegrityError likewise."""
    found: list[str] = []
    with _reading(path) as file:
        for group, low, high in _bounds(file):
            if low[: len(prefix)] <= prefix <= high[: len(prefix)]:
                ids = file.read_row_group(group, ["image_id"])["image_id"]
                found += ids.filter(pc.starts_with(ids, prefix)).to_pylist()
    return found[:most]


@contextmanager
def _reading(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _bounds(file: pq.ParquetFile) -> Iterator[tuple[int, str, str]]:
    """Yield the number of each part of the file with its smallest and its largest image id."""
    column = file.schema_arrow.get_field_index("image_id")
    for group in range(file.num_row_groups):
        known = file.metadata.row_group(group).column(column).statistics
        yield (group, known.min, known.max) if known is not None and known.has_min_max else (group, "", "g")


def _damaged(path: Path, error: Exception) -> IntegrityError:
    said = " ".join(str(error).split())
    return IntegrityError(f"{path} cannot be read ({said}); {RESTORE}")


class RowIndex:
    """Which row of a manifest's table (sorted by image id) holds an image: 64 bytes an image, shared with the table."""

    def __init__(self, table: pa.Table) -> None:
        ids = table["image_id"].combine_chunks().cast(pa.binary())
        self._ids = np.frombuffer(ids.cast(pa.binary(_ID_CHARACTERS)).buffers()[1], f"S{_ID_CHARACTERS}")

    def row(self, image_id: str) -> int | None:
        """Return the row of an image, or None if it is not there."""
        key = image_id.encode()
        row = int(np.searchsorted(self._ids, key))
        return row if row < len(self._ids) and self._ids[row] == key else None


def without(rows: pa.Table, image_ids: Collection[str]) -> pa.Table:
    """Return manifest rows without those of `image_ids`."""
    if not image_ids:
        return rows
    return rows.filter(pc.invert(pc.is_in(rows["image_id"], pa.array(sorted(image_ids), pa.string()))))


def with_shards_changed(rows: pa.Table, shards: Collection[str], change: Callable[[Row], Row]) -> pa.Table:
    """Return manifest rows, those that lie in one of `shards` as `change` makes them, the others untouched."""
    inside = pc.is_in(rows["shard"], pa.array(sorted(shards), pa.string())).combine_chunks()
    changed = [change(row) for row in rows.filter(inside).to_pylist()]
    return pa.concat_tables([rows.filter(pc.invert(inside)), pa.Table.from_pylist(changed, MANIFEST_SCHEMA)])


def _known(names: tuple[str, ...], known: tuple[str, ...], what: str) -> None:
    for name in names:
        if name not in known:
            raise DataError(f"{what} {name!r} is not one of {', '.join(known)}")
