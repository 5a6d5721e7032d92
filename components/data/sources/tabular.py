"""Lists of images: .csv and .parquet files with the columns path, label, group, captured_at."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from components.data.sources.item import SourceItem, printable, unsafe_path
from components.errors import ConfigurationError, DataError
from components.records import parse_time, require_utc

TABLE_SUFFIXES = (".csv", ".parquet")

_COLUMNS = ("path", "label", "group", "captured_at")


@dataclass(frozen=True, slots=True)
class _Row:
    path: str
    label: str | None
    group: str | None
    captured_at: datetime | None


def read_table(file: BinaryIO, name: str, read_file: Callable[[str], tuple[bytes, str | None]]) -> Iterator[SourceItem]:
    """Yield the images that the list in `file`, called `name`, names, by path.

    read_file: gives (content, problem) for a path relative to the list. Raises DataError, naming file and row, for a
    list that cannot be read, an unknown column, an empty path or a time without a zone.
    """
    records = _csv_records(file, name) if name.lower().endswith(".csv") else _parquet_records(file, name)
    rows = sorted(_rows(records, name), key=lambda row: row.path)
    for row in rows:
        content, problem = (b"", "unsafe-path") if unsafe_path(row.path) else read_file(row.path)
        shown = row.path if problem == "unsafe-path" else str(PurePosixPath(row.path))
        yield SourceItem(printable(shown), content, row.label, row.group, row.captured_at, problem=problem)


def _rows(records: Iterable[Mapping[str, Any]], name: str) -> Iterator[_Row]:
    for number, record in enumerate(records, start=1):
        where = f"{name}: row {number}"
        path = _text(record.get("path"))
        if path is None:
            raise DataError(f"{where}: path is empty; write the image's path, relative to the list, or remove the row")
        captured_at = _moment(record.get("captured_at"), where)
        yield _Row(path, _text(record.get("label")), _text(record.get("group")), captured_at)


def _csv_records(file: BinaryIO, name: str) -> Iterator[Mapping[str, Any]]:
    try:
        text = file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [column.strip() for column in next(reader, [])]
        _check_columns(header, name)
        for number, cells in enumerate((cells for cells in reader if cells), start=1):
            if len(cells) != len(header):
                raise DataError(f"{name}: row {number}: {len(cells)} cells under {len(header)} columns; quote commas")
            yield dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{name} is not a readable CSV file ({error}); save it again") from error


def _parquet_records(file: BinaryIO, name: str) -> Iterator[Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            _check_columns(table.schema_arrow.names, name)
            for batch in table.iter_batches(16_384):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{name} is not a readable Parquet file ({' '.join(str(error).split())})") from error


def _check_columns(columns: list[str], name: str) -> None:
    if "path" not in columns:
        raise DataError(f"{name} has no column 'path'; its columns are {columns}, expected some of {list(_COLUMNS)}")
    for column in columns:
        if column not in _COLUMNS or columns.count(column) > 1:
            near = difflib.get_close_matches(column, _COLUMNS, n=1)
            hint = f"did you mean {near[0]!r}?" if near and near[0] != column else f"known, once each: {list(_COLUMNS)}"
            raise DataError(f"{name}: column {printable(column)!r} is not expected; {hint}")


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return str(value).strip() or None


def _moment(value: Any, where: str) -> datetime | None:
    try:
        if isinstance(value, datetime):
            return require_utc(value)
        text = _text(value)
        return None if text is None else parse_time(text)
    except ConfigurationError as error:
        raise DataError(f"{where}: captured_at: {error}") from error
