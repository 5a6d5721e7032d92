"""How lists of images are written: CSV, JSON Lines and Parquet, each read a bounded piece at a time."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from components.data.sources.columns import ColumnNames, Columns, found_columns
from components.errors import DataError

MOST_ROWS = 20_000_000
LONGEST_TEXT = 32_768

_LONGEST_LINE = 1024 * 1024
_MOST_CHUNK_BYTES = 1024**3
_PARQUET_ROWS = 1_024

Record = Mapping[str, Any]
Cells = tuple[Any, Any, Any, Any, Any]


class ListFormat:
    """The rows of a list: (path, label, group, captured_at, annotator) as they stand; None for a broken row."""

    def __init__(self, file: BinaryIO, name: str, names: ColumnNames) -> None:
        self._file = file
        self._name = name
        self._names = names
        self.labelled = False
        self.annotated = False

    def _find(self, header: Sequence[str]) -> Columns:
        columns = found_columns(header, self._names, self._name)
        self.labelled = columns.label is not None
        self.annotated = columns.annotator is not None
        return columns

    def __iter__(self) -> Generator[Cells | None, None, None]:
        raise NotImplementedError


class CsvList(ListFormat):
    """Comma-separated UTF-8 with a header. Wrong quoting costs the list: nobody knows where the next row starts."""

    def __iter__(self) -> Generator[Cells | None, None, None]:
        text = io.TextIOWrapper(self._file, encoding="utf-8-sig", newline="")
        try:
            reader = csv.reader(self._lines(text), strict=True)
            header = [column.strip() for column in next(reader, [])]
            columns = self._find(header)
            places = [None if column is None else header.index(column) for column in columns.in_order()]
            path, label, group, captured_at, annotator = places
            width = len(header)
            for cells in reader:
                if len(cells) == width:
                    yield (
                        cells[path or 0],
                        None if label is None else cells[label],
                        None if group is None else cells[group],
                        None if captured_at is None else cells[captured_at],
                        None if annotator is None else cells[annotator],
                    )
                elif cells:
                    yield None
        except csv.Error as error:
            raise DataError(f"{self._name} is not a readable CSV file ({error}); save it again") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{self._name} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
        finally:
            text.detach()

    def _lines(self, text: io.TextIOWrapper) -> Iterator[str]:
        while line := text.readline(_LONGEST_LINE):
            if len(line) == _LONGEST_LINE:
                raise DataError(f"{self._name} has a line of more than {_LONGEST_LINE} characters; save it again")
            yield line


class JsonLinesList(ListFormat):
    """One JSON object a line; its keys are the columns."""

    def __iter__(self) -> Generator[Cells | None, None, None]:
        seen: dict[str, None] = {}
        columns: Columns | None = None
        for record in self._records():
            if record is None:
                yield None
                continue
            if not record.keys() <= seen.keys():
                seen.update(dict.fromkeys(record))
                columns = self._find(list(seen))
            if columns is not None:
                yield (
                    record.get(columns.path),
                    record.get(columns.label) if columns.label else None,
                    record.get(columns.group) if columns.group else None,
                    record.get(columns.captured_at) if columns.captured_at else None,
                    record.get(columns.annotator) if columns.annotator else None,
                )
        if columns is None:
            self._find([])

    def _records(self) -> Iterator[Record | None]:
        first = True
        while line := self._file.readline(_LONGEST_LINE):
            if len(line) == _LONGEST_LINE:
                raise DataError(f"{self._name} has a line of more than {_LONGEST_LINE} bytes; write one object a line")
            try:
                text = line.decode("utf-8-sig" if first else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{self._name} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
            if not text.strip():
                continue
            record = _object(text)
            if first and record is None:
                raise DataError(f"{self._name} does not start with a JSON object; write one object a line")
            first = False
            yield record


def _object(text: str) -> Record | None:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


class ParquetList(ListFormat):
    """A Parquet file; of its columns only the used ones are read."""

    def __iter__(self) -> Generator[Cells | None, None, None]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self._file) as opened:
                schema, metadata = opened.schema_arrow, opened.metadata
            columns = self._find(schema.names)
            wanted = columns.in_order()
            used = [name for name in wanted if name is not None]
            self._check_size(metadata, used)
            texts = [self._text_in(schema.field(name), of_label=name == columns.label) for name in used]
            self._check_values(metadata, [path for path in texts if path is not None])
            self._file.seek(0)
            with pq.ParquetFile(self._file, buffer_size=1024 * 1024, pre_buffer=False) as opened:
                for batch in opened.iter_batches(_PARQUET_ROWS, columns=used):
                    cells = [
                        [None] * batch.num_rows if name is None else batch.column(used.index(name)).to_pylist()
                        for name in wanted
                    ]
                    yield from zip(*cells, strict=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{self._name} is not a readable Parquet file ({' '.join(str(error).split())})") from error

    def _text_in(self, field: Any, *, of_label: bool) -> str | None:
        """Return where a column holds text, None for numbers. Raises DataError for one of bytes, lists or the like.

        of_label: it is the column of labels; where these are sets, it may hold lists of them.
        """
        import pyarrow.types as of

        kind, path = field.type, field.name
        if of_label and self._names.several and (of.is_list(kind) or of.is_large_list(kind)):
            kind, path = kind.value_type, f"{path}.list.{kind.value_field.name}"
        kind = kind.value_type if of.is_dictionary(kind) else kind
        if of.is_string(kind) or of.is_large_string(kind):
            return str(path)
        if (
            of.is_integer(kind)
            or of.is_floating(kind)
            or of.is_boolean(kind)
            or of.is_temporal(kind)
            or of.is_null(kind)
        ):
            return None
        raise DataError(f"{self._name}: column {field.name!r} holds {kind}, not text or numbers; write it as text")

    def _check_size(self, metadata: Any, used: Sequence[str]) -> None:
        if metadata.num_rows > MOST_ROWS:
            raise DataError(f"{self._name} has {metadata.num_rows} rows; at most {MOST_ROWS} are read; split it")
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            for column in map(group.column, range(group.num_columns)):
                if (
                    column.path_in_schema.partition(".list.")[0] in used
                    and column.total_uncompressed_size > _MOST_CHUNK_BYTES
                ):
                    raise DataError(
                        f"{self._name}: column {column.path_in_schema!r} has {column.total_uncompressed_size} bytes in "
                        f"one row group, at most {_MOST_CHUNK_BYTES} are read; write smaller row groups"
                    )

    def _check_values(self, metadata: Any, texts: Sequence[str]) -> None:
        """Raise DataError where a value that rows share is long: of a megabyte and a million rows, the file is small.

        The first row of a group, read as a dictionary, brings the group's whole dictionary with it.
        """
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        self._file.seek(0)
        with pq.ParquetFile(
            self._file, read_dictionary=list(texts), buffer_size=1024 * 1024, pre_buffer=False
        ) as opened:
            for group in range(metadata.num_row_groups if texts else 0):
                first = next(opened.iter_batches(1, row_groups=[group], columns=texts), None)
                for column in first.columns if first is not None else ():
                    inside = column.values if pa.types.is_list(column.type) else column
                    longest = pc.max(pc.binary_length(inside.dictionary)).as_py() or 0
                    if longest > LONGEST_TEXT:
                        raise DataError(
                            f"{self._name} holds a text of {longest} bytes; at most {LONGEST_TEXT} are read"
                        )
