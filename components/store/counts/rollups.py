"""Daily counts of predictions, recomputed for the days that received rows, and what is summed up from them.

Python never holds more than the counts: memory does not grow with the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, FromClause, Row, Subquery, and_, func, select, tablesample, text, true

from components.errors import ConfigurationError
from components.records import CONFIDENCE_BINS, IMAGE_STATISTICS, Window
from components.store.database import Database
from components.store.draws.spans import batches_of, months_of, span_of
from components.store.scored.chunks import octaves_of
from components.store.tables import prediction, prediction_daily

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COLUMNS = ("confidence", "ood_score", *IMAGE_STATISTICS)
QUANTILE_ROWS = 100_000
INDEXED_SHARE = 0.05  # of a window's rows: more are found sooner by reading them all
FEWEST_BY_PAGE = 5_000  # rows, which lie in a hundred pages and more
PAGES = 1.2  # times the share wanted: a page is taken or left as a whole, and too few rows would be a smaller sample

# The rows of batches are locked: what is counted here is what is noted as counted, whoever writes meanwhile.
_DIRTY = text(
    """
SELECT number, CAST(scored_at AT TIME ZONE 'UTC' AS date) AS day, model_version, rows FROM batch
WHERE scored_at >= :start AND scored_at < :end AND rows <> rolled_up_rows
ORDER BY number FOR UPDATE
"""
)
# Rows of a batch lie together, which the planner values too little: it would rather read the whole month.
BY_BATCH = text("SET LOCAL random_page_cost = 1.1")
_FORGET = text("DELETE FROM prediction_daily WHERE day = :day AND model_version = :version")
_COUNT = text(
    """
INSERT INTO prediction_daily (day, model_version, predicted, conf_bin, n, sum_conf)
SELECT CAST(:day AS date), CAST(:version AS integer), p.predicted, p.conf_bin, count(*), sum(p.confidence)
FROM prediction p
WHERE p.month = date_trunc('month', CAST(:day AS timestamp))::date AND p.model_version = :version AND NOT p.shadow
    AND p.batch_number = ANY(CAST(:batches AS bigint[]))
GROUP BY p.predicted, p.conf_bin
"""
)
# Asked apart: numbers that the planner knows lead it to the rows of a day, a subquery to all rows of the month.
_BATCHES_OF_DAY = text(
    "SELECT number FROM batch WHERE CAST(scored_at AT TIME ZONE 'UTC' AS date) = :day AND model_version = :version"
)
_COUNTED = text("UPDATE batch SET rolled_up_rows = rows WHERE number = ANY(CAST(:numbers AS bigint[]))")
_STRATUM_COUNTS = text(
    """
SELECT predicted, conf_bin, sum(n) FROM prediction_daily
WHERE day >= :first_day AND day < :end_day AND model_version = :version
GROUP BY predicted, conf_bin
"""
)


def rollup(db: Database, window: Window) -> int:
    """Bring prediction_daily up to date for the window and return how many (day, model) pairs had received rows."""
    with db.transaction() as connection:
        dirty: list[Row[Any]] = list(connection.execute(_DIRTY, {"start": window.start, "end": window.end}))
        days = sorted({(row.day, row.model_version) for row in dirty})
        if days:
            connection.execute(BY_BATCH)
        for day, version in days:
            counted = {"day": day, "version": version}
            connection.execute(_FORGET, counted)
            batches = connection.scalars(_BATCHES_OF_DAY, counted).all()
            connection.execute(_COUNT, {**counted, "batches": list(batches)})
        connection.execute(_COUNTED, {"numbers": [row.number for row in dirty]})
    return len(days)


def class_counts(db: Database, window: Window, model_version: int) -> NDArray[np.int64]:
    """Return (K,) how many predictions of the segment name each class, late rows included."""
    counted: NDArray[np.int64] = stratum_counts(db, window, model_version).sum(axis=1)
    return counted


def stratum_counts(db: Database, window: Window, model_version: int) -> NDArray[np.int64]:
    """Return (K, B) predictions of the segment per predicted class and confidence bin, late rows included."""
    import numpy as np

    rollup(db, window)
    with db.transaction() as connection:
        span = span_of(connection, window, model_version)
        found = np.zeros((len(span.classes), CONFIDENCE_BINS), np.int64)
        for predicted, confidence_bin, many in connection.execute(_STRATUM_COUNTS, days_of(window, model_version)):
            found[predicted, confidence_bin] = int(many)
    return found


def quantile_edges(
    db: Database, window: Window, model_version: int, columns: Sequence[str], bins: int
) -> dict[str, NDArray[np.float64]]:
    """Return, per column, the edges that cut it into about `bins` equal shares, as `binning.quantile_edges` does.

    Read from at most 100,000 rows, those with the smallest `u`. Empty where no value is known.
    """
    from components.monitoring.drift import binning

    for column in columns:
        if column not in COLUMNS:
            raise ConfigurationError(f"column {column!r} has no quantiles; one of {', '.join(COLUMNS)}")
    rows = sample(db, window, model_version, columns, QUANTILE_ROWS)
    return {column: binning.quantile_edges(rows[column], bins) for column in columns}


def sample(
    db: Database, window: Window, model_version: int | None, columns: Sequence[str], limit: int
) -> dict[str, NDArray[np.float64]]:
    """Return about `limit` rows, never more, of a segment (None: every model's), one (N,) float64 array a column.

    They are the rows below a share of `u`: uniform, and the same each time. Where thousands are wanted of a large
    window, they are whole pages of the table instead, the same each time too: rows that came together are alike, so
    they are for looking at and for quantiles; reading as many from all over the table can take half a minute.
    """
    import numpy as np

    found = _sampled(db, window, model_version, columns, limit, by_page=True)
    table = np.array(found, dtype=np.float64).reshape(len(found), len(columns))
    return {name: table[:, n] for n, name in enumerate(columns)}


def sample_probabilities(db: Database, window: Window, model_version: int, limit: int) -> NDArray[np.float16]:
    """Return the calibrated probabilities (N, K) of about `limit` rows, never more, of a segment: those of least `u`.

    Where that is a small share of the window they are found by the index of draws, stratum by stratum.
    """
    import numpy as np

    found = _sampled(db, window, model_version, ("probabilities",), limit, by_page=False)
    with db.transaction() as connection:
        classes = len(span_of(connection, window, model_version).classes)
    return np.frombuffer(b"".join(bytes(row[0]) for row in found), "<f2").reshape(len(found), classes)


def _sampled(
    db: Database, window: Window, model_version: int | None, columns: Sequence[str], limit: int, *, by_page: bool
) -> list[tuple[Any, ...]]:
    rollup(db, window)
    with db.transaction() as connection:
        batches = batches_of(connection, window, model_version)
        rows = connection.scalar(
            text("SELECT sum(rows) FROM batch WHERE number = ANY(CAST(:numbers AS bigint[]))"), {"numbers": batches}
        )
        share = min(1.0, 1.02 * limit / max(1, int(rows or 0)))
        if share >= INDEXED_SHARE:
            drawn = select(prediction).where(_of(prediction, window, batches), prediction.c.u < share).subquery()
        elif by_page and limit >= FEWEST_BY_PAGE:
            pages = tablesample(prediction, func.system(100 * PAGES * share), "drawn", seed=text("0"))
            drawn = select(pages).where(_of(pages, window, batches)).subquery()
        else:
            drawn = _by_index(window, share, _of(prediction, window, batches))
        asked = (
            select(*[drawn.c[name] for name in columns])
            .order_by(drawn.c.u, drawn.c.batch_number, drawn.c.item_no)
            .limit(limit)
        )
        return [tuple(row) for row in connection.execute(asked)]


def _of(rows: FromClause, window: Window, batches: Sequence[int]) -> ColumnElement[bool]:
    first, last = months_of(window)
    # No shadow rows, as the index has it.
    return and_(rows.c.month.between(first, last), rows.c.batch_number.in_(batches), ~rows.c.shadow)


def _by_index(window: Window, share: float, wanted: ColumnElement[bool]) -> Subquery:
    """Return the wanted predictions of least `u`, looked for in each stratum's octaves up to that of `share`."""
    import numpy as np

    counted = prediction_daily.c
    strata = (
        select(counted.predicted, counted.conf_bin, counted.model_version)
        .where(counted.day >= window.start.date(), counted.day < window.end.date())
        .distinct()
        .subquery("strata")
    )
    low = (
        select(prediction)
        .where(
            prediction.c.predicted == strata.c.predicted,
            prediction.c.conf_bin == strata.c.conf_bin,
            prediction.c.u_octave <= int(octaves_of(np.array([share]))[0]),
            prediction.c.model_version == strata.c.model_version,
            prediction.c.u < share,
            wanted,
        )
        .lateral("low")
    )
    return select(low).select_from(strata.join(low, true())).subquery("drawn")


def days_of(window: Window, model_version: int) -> dict[str, Any]:
    """Return the values that queries of daily counts bind."""
    return {"first_day": window.start.date(), "end_day": window.end.date(), "version": model_version}
