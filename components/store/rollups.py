"""Daily counts of predictions, recomputed for the days that received rows, and what is summed up from them.

Python never holds more than the counts: memory does not grow with the table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, select, text

from components.errors import ConfigurationError
from components.records import IMAGE_STATISTICS, Window
from components.store.database import Database
from components.store.spans import batches_of, months_of, span_of
from components.store.tables import prediction

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COLUMNS = ("confidence", "ood_score", *IMAGE_STATISTICS)
QUANTILE_ROWS = 100_000

# The rows of batches are locked: what is counted here is what is noted as counted, whoever writes meanwhile.
_DIRTY = text(
    """
SELECT number, CAST(scored_at AT TIME ZONE 'UTC' AS date) AS day, model_version, rows FROM batch
WHERE scored_at >= :start AND scored_at < :end AND rows <> rolled_up_rows
ORDER BY number FOR UPDATE
"""
)
_FORGET = text("DELETE FROM prediction_daily WHERE day = :day AND model_version = :version")
_COUNT = text(
    """
INSERT INTO prediction_daily (day, model_version, predicted, conf_bin, n, sum_conf)
SELECT CAST(:day AS date), CAST(:version AS integer), p.predicted, p.conf_bin, count(*), sum(p.confidence)
FROM prediction p
WHERE p.month = date_trunc('month', CAST(:day AS timestamp))::date AND p.model_version = :version AND NOT p.shadow
    AND p.batch_number IN (
        SELECT number FROM batch
        WHERE CAST(scored_at AT TIME ZONE 'UTC' AS date) = :day AND model_version = :version
    )
GROUP BY p.predicted, p.conf_bin
"""
)
_COUNTED = text("UPDATE batch SET rolled_up_rows = rows WHERE number = ANY(CAST(:numbers AS bigint[]))")
_CLASS_COUNTS = text(
    """
SELECT predicted, sum(n) FROM prediction_daily
WHERE day >= :first_day AND day < :end_day AND model_version = :version
GROUP BY predicted
"""
)
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
_FORGET_HISTOGRAM = text(
    """
DELETE FROM histogram_daily WHERE model_version = :version AND reference = :reference AND column_name = :column
    AND day = ANY(CAST(:days AS date[]))
"""
)
# Stored values are single precision; edges are rounded alike, or a value that is an edge could fall on either side.
_HISTOGRAM = text(
    """
INSERT INTO histogram_daily (day, model_version, reference, column_name, bin, n)
SELECT v.day, CAST(:version AS integer), :reference, :column,
    CASE WHEN v.value IS NULL OR v.value = 'NaN' THEN -1
        ELSE width_bucket(v.value, CAST(:edges AS real[])) END AS bin,
    count(*)
FROM (
    SELECT CAST(b.scored_at AT TIME ZONE 'UTC' AS date) AS day,
        CASE :column
            WHEN 'confidence' THEN p.confidence WHEN 'ood_score' THEN p.ood_score
            WHEN 'brightness' THEN p.brightness WHEN 'contrast' THEN p.contrast
            WHEN 'sharpness' THEN p.sharpness WHEN 'saturation' THEN p.saturation
            WHEN 'width' THEN p.width WHEN 'height' THEN p.height
            WHEN 'aspect' THEN p.aspect WHEN 'bytes' THEN p.bytes
        END AS value
    FROM prediction p JOIN batch b ON b.number = p.batch_number
    WHERE p.month BETWEEN :first_month AND :last_month AND p.model_version = :version AND NOT p.shadow
        AND p.batch_number = ANY(CAST(:batches AS bigint[]))
        AND CAST(b.scored_at AT TIME ZONE 'UTC' AS date) = ANY(CAST(:days AS date[]))
) v
GROUP BY 1, 5
"""
)
_SUM_HISTOGRAM = text(
    """
SELECT bin, sum(n) FROM histogram_daily
WHERE day >= :first_day AND day < :end_day AND model_version = :version AND reference = :reference
    AND column_name = :column AND bin >= 0
GROUP BY bin
"""
)


def rollup(db: Database, window: Window) -> int:
    """Bring prediction_daily up to date for the window and return how many (day, model) pairs had received rows."""
    with db.transaction() as connection:
        dirty: list[Row[Any]] = list(connection.execute(_DIRTY, {"start": window.start, "end": window.end}))
        days = sorted({(row.day, row.model_version) for row in dirty})
        for day, version in days:
            connection.execute(_FORGET, {"day": day, "version": version})
            connection.execute(_COUNT, {"day": day, "version": version})
        connection.execute(_COUNTED, {"numbers": [row.number for row in dirty]})
    return len(days)


def class_counts(db: Database, window: Window, model_version: int) -> NDArray[np.int64]:
    """Return (K,) how many predictions of the segment name each class, late rows included."""
    import numpy as np

    rollup(db, window)
    with db.transaction() as connection:
        span = span_of(connection, window, model_version)
        found = np.zeros(len(span.classes), np.int64)
        for predicted, many in connection.execute(_CLASS_COUNTS, _days(window, model_version)):
            found[predicted] = int(many)
    return found


def histogram(
    db: Database, window: Window, model_version: int, column: str, edges: Sequence[float]
) -> NDArray[np.int64]:
    """Return (len(edges) + 1,) counts of a column between ascending inner edges; missing values and NaN are left out.

    Cell i holds edges[i-1] <= value < edges[i]. Days that got no rows since the last call are not read again.
    Raises ConfigurationError for an unknown column or edges that do not ascend.
    """
    import numpy as np

    numbers = [float(edge) for edge in edges]
    if column not in COLUMNS:
        raise ConfigurationError(f"column {column!r} has no histogram; one of {', '.join(COLUMNS)}")
    if any(low >= high for low, high in pairwise(numbers)):
        raise ConfigurationError(f"edges of {column!r} must ascend: {numbers}")
    rollup(db, window)
    counts = np.zeros(len(numbers) + 1, np.int64)
    with db.transaction() as connection:
        values = {
            **_days(window, model_version),
            "column": column,
            "reference": hashlib.sha256(repr(numbers).encode()).hexdigest()[:16],
            "edges": numbers,
        }
        _lock(connection, f"histogram {model_version} {column} {values['reference']}")
        stale = list(connection.scalars(_STALE_DAYS, values))
        if stale:
            binds = {**span_of(connection, window, model_version).binds(), **values, "days": stale}
            connection.execute(_FORGET_HISTOGRAM, binds)
            connection.execute(_HISTOGRAM, binds)
        for cell, many in connection.execute(_SUM_HISTOGRAM, values):
            counts[cell] = int(many)
    return counts


def quantile_edges(db: Database, window: Window, model_version: int, column: str, bins: int) -> NDArray[np.float64]:
    """Return the edges that cut a segment's column into about `bins` equal shares, as `binning.quantile_edges` does.

    Read from at most 100,000 rows, those with the smallest `u`. Empty where no value is known.
    """
    from components.monitoring import binning

    if column not in COLUMNS:
        raise ConfigurationError(f"column {column!r} has no quantiles; one of {', '.join(COLUMNS)}")
    return binning.quantile_edges(sample(db, window, model_version, [column], QUANTILE_ROWS)[column], bins)


def sample(
    db: Database, window: Window, model_version: int | None, columns: Sequence[str], limit: int
) -> dict[str, NDArray[np.float64]]:
    """Return about `limit` rows, never more, of a segment (None: every model's), one (N,) float64 array a column."""
    import numpy as np

    chosen = [prediction.c[name] for name in columns]
    with db.transaction() as connection:
        batches = batches_of(connection, window, model_version)
        rows = connection.scalar(
            text("SELECT sum(rows) FROM batch WHERE number = ANY(CAST(:numbers AS bigint[]))"), {"numbers": batches}
        )
        first, last = months_of(window)
        # Every row below a share of u: uniform, the same each time, and found without sorting the table.
        share = min(1.0, 1.02 * limit / max(1, int(rows or 0)))
        asked = (
            select(*chosen)
            .where(
                prediction.c.month.between(first, last),
                prediction.c.batch_number.in_(batches),
                prediction.c.shadow.is_(False),
                prediction.c.u < share,
            )
            .order_by(prediction.c.u, prediction.c.batch_number, prediction.c.item_no)
            .limit(limit)
        )
        found = [tuple(row) for row in connection.execute(asked)]
    table = np.array(found, dtype=np.float64).reshape(len(found), len(columns))
    return {name: table[:, n] for n, name in enumerate(columns)}


def _days(window: Window, model_version: int) -> dict[str, Any]:
    return {"first_day": window.start.date(), "end_day": window.end.date(), "version": model_version}


def _lock(connection: Connection, name: str) -> None:
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name})
