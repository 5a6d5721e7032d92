"""Daily histograms of predictions' columns between a reference's edges, counted for the days that received rows.

The values are streamed out of PostgreSQL and counted by numpy, all columns in one pass: several times as fast as
counting them there column by column. Python never holds more than a few megabytes of them.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from psycopg2 import sql
from sqlalchemy import Connection, insert, text

from components.errors import ConfigurationError
from components.records import Window
from components.store.counts.rollups import BY_BATCH, COLUMNS, days_of, rollup
from components.store.database import Database, copy_out
from components.store.draws.spans import Span, span_of
from components.store.tables import histogram_daily

if TYPE_CHECKING:
    from datetime import date

    from numpy.typing import NDArray

MISSING = -1  # the cell of NULL and NaN

# A day is stale where its histogram counts other rows than the rollup does; rows are only ever added.
_STALE_DAYS = text(
    """
SELECT d.day FROM (
    SELECT day, sum(n) AS n FROM prediction_daily
    WHERE day >= :first_day AND day < :end_day AND model_version = :version GROUP BY day
) d LEFT JOIN (
    SELECT day, sum(n) AS n FROM histogram_daily
    WHERE day >= :first_day AND day < :end_day AND model_version = :version
        AND reference = :reference AND column_name = :column GROUP BY day
) h USING (day)
WHERE d.n IS DISTINCT FROM h.n
"""
)
_FORGET = text(
    "DELETE FROM histogram_daily WHERE model_version = :version AND reference = :reference AND column_name = :column"
    " AND day = :day"
)
_BATCHES_OF_DAY = text(
    "SELECT number FROM batch WHERE number = ANY(CAST(:batches AS bigint[]))"
    " AND CAST(scored_at AT TIME ZONE 'UTC' AS date) = :day ORDER BY number"
)
_SUM = text(
    """
SELECT bin, sum(n) FROM histogram_daily
WHERE day >= :first_day AND day < :end_day AND model_version = :version AND reference = :reference
    AND column_name = :column AND bin >= 0
GROUP BY bin
"""
)
_VALUES = sql.SQL(
    "COPY (SELECT {columns} FROM prediction WHERE month = {month} AND model_version = {version} AND NOT shadow"
    " AND batch_number = ANY({batches}::bigint[])) TO STDOUT (FORMAT binary)"
)


def histogram(
    db: Database, window: Window, model_version: int, column: str, edges: Sequence[float]
) -> NDArray[np.int64]:
    """Return (len(edges) + 1,) counts of one column; see `histograms`."""
    return histograms(db, window, model_version, {column: edges})[column]


def histograms(
    db: Database, window: Window, model_version: int, edges: Mapping[str, Sequence[float]]
) -> dict[str, NDArray[np.int64]]:
    """Return, per column, (len(edges) + 1,) counts between ascending inner edges; missing values and NaN are left out.

    Cell i holds edges[i-1] <= value < edges[i]. Days that got no rows since the last call are not read again.
    Raises ConfigurationError for an unknown column or edges that do not ascend.
    """
    wanted = {column: [float(edge) for edge in of_column] for column, of_column in edges.items()}
    for column, numbers in wanted.items():
        if column not in COLUMNS:
            raise ConfigurationError(f"column {column!r} has no histogram; one of {', '.join(COLUMNS)}")
        if any(low >= high for low, high in pairwise(numbers)):
            raise ConfigurationError(f"edges of {column!r} must ascend: {numbers}")
    rollup(db, window)
    with db.transaction() as connection:
        connection.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": f"histograms {model_version}"}
        )
        asked = {column: _key(window, model_version, column, numbers) for column, numbers in wanted.items()}
        stale: defaultdict[date, list[str]] = defaultdict(list)
        for column, key in asked.items():
            for day in connection.scalars(_STALE_DAYS, key):
                stale[day].append(column)
        span = span_of(connection, window, model_version) if stale else None
        for day in sorted(stale):
            assert span is not None  # noqa: S101  (there is a stale day)
            counted = _count(connection, span, day, {column: wanted[column] for column in stale[day]})
            _store(connection, day, {column: asked[column] for column in stale[day]}, counted)
        return {column: _summed(connection, asked[column], len(numbers) + 1) for column, numbers in wanted.items()}


def _key(window: Window, model_version: int, column: str, edges: Sequence[float]) -> dict[str, Any]:
    reference = hashlib.sha256(repr(list(edges)).encode()).hexdigest()[:16]
    return {**days_of(window, model_version), "column": column, "reference": reference}


def _count(
    connection: Connection, span: Span, day: date, edges: Mapping[str, Sequence[float]]
) -> dict[str, NDArray[np.int64]]:
    """Return, per column, (len(edges) + 2,) counts of a day's rows; the last is of missing values."""
    batches = list(connection.scalars(_BATCHES_OF_DAY, {"batches": list(span.batches), "day": day}))
    # NULL becomes NaN: then every row has the same length, and a block of them is an array.
    columns = [sql.SQL("coalesce({}, 'NaN')").format(sql.Identifier(column)) for column in edges]
    statement = _VALUES.format(
        columns=sql.SQL(", ").join(columns),
        month=sql.Literal(day.replace(day=1)),
        version=sql.Literal(span.model_version),
        batches=sql.Literal(batches),
    )
    counter = _Counter([np.asarray(numbers, np.float32) for numbers in edges.values()])
    connection.execute(BY_BATCH)
    copy_out(connection, statement, counter)
    return dict(zip(edges, counter.finish(), strict=True))


class _Counter:
    """A file that counts what a binary COPY of single-precision columns writes into it, block by block.

    The driver writes row by row: they are gathered first.
    """

    HEADER_BYTES = 19
    BLOCK_BYTES = 1 << 22

    def __init__(self, edges: Sequence[NDArray[np.float32]]) -> None:
        self._counts = [np.zeros(len(numbers) + 2, np.int64) for numbers in edges]
        self._edges = edges
        # A row is the number of its values, and each value has its length in front.
        value = np.dtype([("length", ">i4"), ("value", ">f4")])
        self._row = np.dtype([("values", ">i2"), ("each", value, (len(edges),))])
        self._gathered = bytearray()
        self._past = self.HEADER_BYTES

    def write(self, data: bytes) -> int:
        """Take the next bytes of the stream; return how many."""
        self._gathered += data
        if len(self._gathered) >= self.BLOCK_BYTES:
            self._count()
        return len(data)

    def finish(self) -> list[NDArray[np.int64]]:
        """Return, per column, (len(edges) + 2,) counts of all that was written; the last is of NaN."""
        self._count()
        return self._counts

    def _count(self) -> None:
        whole = max(0, len(self._gathered) - self._past) // self._row.itemsize
        rows = np.frombuffer(bytes(self._gathered), self._row, whole, self._past) if whole else np.zeros(0, self._row)
        for n, (numbers, counts) in enumerate(zip(self._edges, self._counts, strict=True)):
            values = rows["each"]["value"][:, n].astype(np.float32)
            cells = np.searchsorted(numbers, values, side="right")
            cells[np.isnan(values)] = len(numbers) + 1
            np.add(counts, np.bincount(cells, minlength=len(counts)), out=counts)
        if whole:
            del self._gathered[: self._past + whole * self._row.itemsize]
            self._past = 0


def _store(
    connection: Connection, day: date, keys: Mapping[str, Mapping[str, Any]], counted: Mapping[str, NDArray[np.int64]]
) -> None:
    rows: list[dict[str, Any]] = []
    for column, key in keys.items():
        connection.execute(_FORGET, {**key, "day": day})
        cells = [*range(len(counted[column]) - 1), MISSING]
        rows += [
            {"day": day, "model_version": key["version"], "reference": key["reference"], "column_name": column,
             "bin": cell, "n": int(many)}
            for cell, many in zip(cells, counted[column], strict=True)
            if many
        ]  # fmt: skip
    if rows:
        connection.execute(insert(histogram_daily), rows)


def _summed(connection: Connection, key: Mapping[str, Any], cells: int) -> NDArray[np.int64]:
    counts = np.zeros(cells, np.int64)
    for cell, many in connection.execute(_SUM, key):
        counts[cell] = int(many)
    return counts
