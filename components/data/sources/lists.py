"""Lists of images: .csv, .parquet and .jsonl files with a row an image.

What is wrong with a row costs that row; what is wrong with the list (its encoding, its columns) costs the list.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from components.data import label_sets
from components.data.sources.columns import ColumnNames
from components.data.sources.item import LONGEST_ANNOTATOR, annotator_name
from components.data.sources.list_formats import LONGEST_TEXT, MOST_ROWS, CsvList, JsonLinesList, ParquetList
from components.errors import ConfigurationError, DataError
from components.records import parse_time, require_utc

if TYPE_CHECKING:
    import pyarrow as pa

LIST_SUFFIXES = (".csv", ".parquet", ".jsonl", ".ndjson")

_ROWS = 16_384

_WHY = {
    "empty-path": "the path is empty; write the image's path, relative to the list",
    "bad-row": "it has other cells than the list has columns, or is no JSON object; quote commas",
    "bad-label": "the label is neither text nor number; lists of labels need data.several",
    "bad-time": "captured_at is no ISO 8601 time with a zone; write one like 2026-10-05T12:00:00Z",
    "bad-annotator": f"the annotator is no text of at most {LONGEST_ANNOTATOR} printable characters",
    "no-annotator": "the column of annotators names nobody; write who said it, or map `--column annotator=`",
}

_PROBLEMS = (None, *_WHY)
_NOBODY = _PROBLEMS.index("no-annotator")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NEVER = -(2**63)


@dataclass(frozen=True, slots=True)
class ListedImage:
    """One row of a list, counted from 1. problem: one of those in _WHY; path may then be empty."""

    number: int
    path: str
    label: str | None = None
    group: str | None = None
    captured_at: datetime | None = None
    problem: str | None = None
    annotator: str | None = None


@dataclass(frozen=True, slots=True)
class ImageList:
    """A list that was read: about a hundred bytes a row. labelled: whether it has a column of labels.

    columns: path, label, group, annotator and captured_at, as Arrow arrays; problems: by row, indices into _PROBLEMS.
    order: the rows by path.
    """

    labelled: bool
    columns: tuple[pa.Array, ...]
    problems: array[int]
    order: pa.Array

    def __iter__(self) -> Iterator[ListedImage]:
        """Yield the rows by path, equal paths in the list's order."""
        for start in range(0, len(self.order), _ROWS):
            rows = self.order.slice(start, _ROWS)
            cells = (column.take(rows).to_pylist() for column in self.columns)
            for number, path, label, group, annotator, captured_at in zip(rows.to_pylist(), *cells, strict=True):
                problem = _PROBLEMS[self.problems[number]]
                yield ListedImage(
                    number + 1, path, label or None, group or None, captured_at, problem, annotator or None
                )


def read_list(file: BinaryIO, name: str, names: ColumnNames) -> ImageList:
    """Return the rows of the list in `file`, called `name`.

    Raises DataError for a list that cannot be read, whose columns do not say where the images are (see
    `found_columns`), that has more than MOST_ROWS rows, or not one that can be used.
    """
    import pyarrow.compute as pc

    lowered = name.lower()
    kind = CsvList if lowered.endswith(".csv") else ParquetList if lowered.endswith(".parquet") else JsonLinesList
    source = kind(file, name, names)
    said = _label_set if names.several else _text
    texts = (_Texts(), _Texts(), _Texts(), _Texts())
    times, problems = array("q"), array("b")
    with closing(iter(source)) as given:
        rows = (_BROKEN if cells is None else _judged(*cells, said=said) for cells in given)
        while some := list(islice(rows, _ROWS)):
            *cells_of, moments, verdicts = zip(*some, strict=True)
            for column, values in zip(texts, cells_of, strict=True):
                column.extend(values)
            times.extend(_NEVER if moment is None else (moment - _EPOCH) // _MICROSECOND for moment in moments)
            problems.extend(_PROBLEMS.index(verdict) for verdict in verdicts)
            if len(problems) > MOST_ROWS:
                raise DataError(f"{name} has more than {MOST_ROWS} rows; split it")
    if source.annotated and problems:
        by_nobody = texts[3].empty() & ~texts[1].empty() & (np.frombuffer(problems, np.int8) == 0)
        problems = array("b", np.where(by_nobody, _NOBODY, problems).astype(np.int8).tobytes())
    if problems and not problems.count(0):
        raise DataError(
            f"{name}: none of its {len(problems)} rows can be used; row 1: {_WHY[_PROBLEMS[problems[0]] or '']}"
        )
    columns = (*(column.as_arrow() for column in texts), _moments(times))
    return ImageList(source.labelled, columns, problems, pc.array_sort_indices(columns[0]))


class _Texts:
    """A column of texts, None as "", that grows in place: appended arrays would be there twice when they are joined."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._ends = array("q", [0])

    def extend(self, texts: Sequence[str | None]) -> None:
        encoded = [text.encode() if text else b"" for text in texts]
        self._ends.extend(islice(accumulate(map(len, encoded), initial=len(self._data)), 1, None))
        self._data += b"".join(encoded)

    def empty(self) -> NDArray[np.bool_]:
        """Return which of the texts are empty."""
        return np.asarray(np.diff(np.frombuffer(self._ends, np.int64)) == 0)

    def as_arrow(self) -> pa.Array:
        import pyarrow as pa

        return pa.LargeStringArray.from_buffers(len(self._ends) - 1, pa.py_buffer(self._ends), pa.py_buffer(self._data))


def _moments(times: array[int]) -> pa.Array:
    import pyarrow as pa

    values = np.frombuffer(times, np.int64)
    return pa.array(values, mask=values == _NEVER).cast(pa.timestamp("us", tz="UTC"))


_Cells = tuple[str, str | None, str | None, str | None, datetime | None, str | None]
_BROKEN: _Cells = ("", None, None, None, None, "bad-row")


def _judged(
    path: Any, label: Any, group: Any, captured_at: Any, annotator: Any, *, said: Callable[[Any], str | None]
) -> _Cells:
    """Return (path, label, group, annotator, captured_at, problem) of a row whose cells are as given.

    said: reads the label.
    """
    where, problem = "", "bad-row"
    try:
        where = _text(path) or ""
        if not where:
            return "", None, None, None, None, "empty-path"
        problem = "bad-label"
        given = said(label)
        problem = "bad-row"
        together = _text(group)
        problem = "bad-annotator"
        who = None if annotator is None else _person(annotator)
        problem = "bad-time"
        return where, given, together, who, None if captured_at is None else _moment(captured_at), None
    except (ValueError, ConfigurationError):
        return where, None, None, None, None, problem


def _text(value: Any) -> str | None:
    """Return a cell as text, None for an empty one. Raises ValueError for what is no text or number, or too long."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if not isinstance(value, str | int | float):
        raise ValueError(f"{type(value).__name__} is no text")  # noqa: TRY004 - one error for all that a cell can be
    text = str(value).strip()
    if len(text) > LONGEST_TEXT:
        raise ValueError("too long")
    if not text.isascii():
        text.encode()  # half a surrogate pair, which JSON can write, cannot be stored
    return text or None


def _label_set(value: Any) -> str | None:
    """Return a cell as a set of labels, None where nothing is said. Raises ValueError as `_text`."""
    try:
        if isinstance(value, str):
            return label_sets.parse(_text(value) or "")
        if not isinstance(value, list | tuple):
            text = _text(value)
            return None if text is None else label_sets.parse(text)
        names = [_text(name) for name in value]
        if any(name is None for name in names):
            raise ValueError("an empty label")
        return _text(label_sets.encode(name for name in names if name is not None))
    except DataError as error:
        raise ValueError(str(error)) from error


def _person(value: Any) -> str | None:
    """Return an annotator's name, in Unicode NFC. Raises ValueError for one that cannot be a name."""
    text = _text(value)
    return None if text is None else annotator_name(text)


def _moment(value: Any) -> datetime | None:
    if isinstance(value, datetime):
        return require_utc(value)
    text = _text(value)
    return None if text is None else _parsed(text)


@lru_cache(1024)
def _parsed(text: str) -> datetime:
    return parse_time(text)
