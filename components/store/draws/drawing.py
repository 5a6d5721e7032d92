"""Samples of predictions: frozen populations, drawn by the smallest `u`, counted as the estimators need them.

Everything a draw rests on is stored in its own transaction: the closed batches that were the population, N_h and n_h
of every stratum (predicted class by confidence bin), and a task with its inclusion probability for every drawn row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sqlalchemy import Connection, Row, func, insert, select, text

from components.errors import ConfigurationError, DataError
from components.records import CONFIDENCE_BINS, Answer, StratumCounts, Window, require_utc
from components.store.database import Database
from components.store.draws.coverage import drawn_elsewhere
from components.store.draws.spans import Span, span_of
from components.store.tables import draw as draw_table
from components.store.tables import draw_batch, draw_stratum, label_task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FIRST, TOP_UP = 1, 2
_ROWS_A_STATEMENT = 5000

# Confidences are summed as whole millionths: a sum of floats depends on the order of reading, a draw must not.
_POPULATION = text(
    """
SELECT predicted, conf_bin, count(*) AS population,
    CAST(sum(CAST(round(confidence * 1000000) AS bigint)) AS double precision) / 1000000 AS sum_conf
FROM prediction
WHERE month BETWEEN :first_month AND :last_month AND model_version = :version AND NOT shadow
    AND batch_number = ANY(CAST(:batches AS bigint[]))
GROUP BY predicted, conf_bin
"""
)
# The n_h smallest u of every stratum, each by a walk along the octaves of u; rows drawn before are left alone. Strata
# are mixed before tasks are numbered: numbers that went stratum by stratum would tell annotators what the model said.
_MAKE_TASKS = text(
    """
INSERT INTO label_task (
    queue, window_name, model_version, class_list_id, draw_id, month, batch_number, item_no, image_id,
    shard_id, shard_row, predicted, conf_bin, u, inclusion_probability, state, created_at
)
SELECT 'accuracy', :window, CAST(:version AS integer), CAST(:class_list AS integer), CAST(:draw AS bigint), p.month,
    p.batch_number, p.item_no, p.image_id, p.shard_id, p.shard_row, p.predicted, p.conf_bin, p.u,
    CAST(s.drawn AS double precision) / s.population, 'open', :now
FROM draw_stratum s
CROSS JOIN LATERAL (
    SELECT * FROM prediction
    WHERE month BETWEEN :first_month AND :last_month AND model_version = :version AND NOT shadow
        AND predicted = s.predicted AND conf_bin = s.conf_bin
        AND batch_number = ANY(CAST(:batches AS bigint[]))
    ORDER BY u_octave, u, batch_number, item_no
    LIMIT s.drawn
) p
WHERE s.draw_id = :strata
ORDER BY p.u * s.population / s.drawn, p.batch_number, p.item_no
ON CONFLICT (queue, window_name, model_version, batch_number, item_no) DO NOTHING
"""
)
_GROW = text(
    """
UPDATE draw_stratum s SET drawn = w.drawn
FROM unnest(CAST(:predicted AS int[]), CAST(:bins AS int[]), CAST(:drawn AS bigint[])) w (predicted, conf_bin, drawn)
WHERE s.draw_id = :strata AND s.predicted = w.predicted AND s.conf_bin = w.conf_bin
"""
)
_REWEIGH = text(
    """
UPDATE label_task t SET inclusion_probability = CAST(s.drawn AS double precision) / s.population
FROM draw_stratum s
WHERE s.draw_id = :strata AND t.draw_id = :strata AND t.predicted = s.predicted AND t.conf_bin = s.conf_bin
"""
)

Allocation = Callable[[StratumCounts], "NDArray[np.int64]"]


class Response(NamedTuple):
    """How far a draw is answered: tasks with a verdict, in adjudication or withdrawn, tasks drawn, and when."""

    answered: int
    drawn: int
    drawn_at: datetime


def freeze_and_draw(
    db: Database,
    window: Window,
    model_version: int,
    *,
    allocate: Allocation,
    kind: Literal["reference", "regular"],
    budget: int,
    now: datetime,
) -> int:
    """Freeze the segment's population, draw its sample and return the number of tasks; again, the first call's.

    allocate: given StratumCounts with population and confidence, returns (K, B) n_h. The population is every row of
    the segment's closed batches whose moment no other window's draw spans; what arrives later is never drawn.
    Raises DataError if an n_h is negative or above its N_h.
    """
    with db.transaction() as connection:
        span = locked_span(connection, window, model_version)
        stored = find_draw(connection, span, FIRST)
        if stored is not None:
            return draw_size(connection, stored.id)
        elsewhere = {n for numbers in drawn_elsewhere(connection, window, model_version).values() for n in numbers}
        span = span.limited_to([number for number in span.batches if number not in elsewhere])
        population = _population(connection, span)
        counted = _stratum_counts(span.classes, population)
        sizes = _checked(counted, allocate(counted))
        draw_id = insert_draw(connection, span, FIRST, kind, {"budget": budget, "frozen_at": require_utc(now)})
        insert_parts(connection, draw_batch, [{"draw_id": draw_id, "batch_number": n} for n in span.batches])
        strata = [
            {**row, "draw_id": draw_id, "drawn": int(sizes[row["predicted"], row["conf_bin"]])} for row in population
        ]
        insert_parts(connection, draw_stratum, strata)
        return _make_tasks(connection, span, draw_id, draw_id, now)


def top_up(db: Database, window: Window, model_version: int, extra: NDArray[np.int64], now: datetime) -> int:
    """Draw `extra` (K, B) further rows, the next-smallest `u` of each stratum; return how many tasks that made.

    Strata with fewer rows left give what they have. Inclusion probabilities of the whole sample follow. A second
    call returns the first one's number. Raises ConfigurationError if there is no first draw.
    """
    import numpy as np

    with db.transaction() as connection:
        span = locked_span(connection, window, model_version)
        first = find_draw(connection, span, FIRST)
        if first is None:
            raise ConfigurationError(f"window {window.name}, model {model_version}: nothing was drawn; draw first")
        stored = find_draw(connection, span, TOP_UP)
        if stored is not None:
            return draw_size(connection, stored.id)
        frozen = _frozen(connection, first.id, span)
        if np.shape(extra) != frozen.population.shape or np.any(np.asarray(extra) < 0):
            raise DataError(f"a top-up must be {frozen.population.shape} numbers of 0 or more, not {extra!r}")
        sizes = np.minimum(frozen.drawn + extra, frozen.population).astype(np.int64)
        moment = {"budget": int(np.sum(extra)), "frozen_at": require_utc(now)}
        draw_id = insert_draw(connection, span, TOP_UP, "topup", moment)
        _grow(connection, first.id, frozen, sizes)
        population = select(draw_batch.c.batch_number).where(draw_batch.c.draw_id == first.id)
        span = span.limited_to(connection.scalars(population.order_by(draw_batch.c.batch_number)).all())
        made = _make_tasks(connection, span, draw_id, first.id, now)
        connection.execute(_REWEIGH, {"strata": first.id})
        return made


def counts(db: Database, window: Window, model_version: int) -> StratumCounts:
    """Return N_h, n_h and x_hy of the segment: frozen where a draw was made, else its rows so far and no labels."""
    with db.transaction() as connection:
        span = span_of(connection, window, model_version)
        if span.several:
            raise DataError(
                f"model version {model_version} predicts several labels an image: its counts are those of each label "
                "(`label_counts`), not of classes"
            )
        first = find_draw(connection, span, FIRST)
        if first is None:
            return _stratum_counts(span.classes, _population(connection, span))
        return _with_answers(connection, span, _frozen(connection, first.id, span))


def response(db: Database, window: Window, model_version: int, round_no: int) -> Response | None:
    """Return how far round 1 (the draw) or 2 (its top-up) is answered, or None if it was not drawn."""
    with db.transaction() as connection:
        found = find_draw(connection, span_of(connection, window, model_version), round_no)
        if found is None:
            return None
        answered = select(func.count()).where(label_task.c.draw_id == found.id, label_task.c.state != "open")
        return Response(connection.execute(answered).scalar_one(), draw_size(connection, found.id), found.frozen_at)


def draw_kind(db: Database, window: Window, model_version: int) -> str | None:
    """Return "reference" or "regular", how the segment's first draw was made, or None without one."""
    with db.transaction() as connection:
        found = find_draw(connection, span_of(connection, window, model_version), FIRST)
    return None if found is None else str(found.kind)


def drawn_windows(db: Database, model_version: int) -> list[Window]:
    """Return the windows with a draw of the model's predictions, the earliest first."""
    asked = select(draw_table.c.window_name).where(
        draw_table.c.model_version == model_version, draw_table.c.round == FIRST
    )
    with db.transaction() as connection:
        return sorted(Window.parse(name) for name in connection.execute(asked).scalars())


def locked_span(connection: Connection, window: Window, model_version: int) -> Span:
    """Return the span of a model's closed batches in a window, holding the lock of the model's draws."""
    # One draw of a model at a time: two windows that overlap must each see what the other has drawn.
    name = f"draw {model_version}"
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name})
    return span_of(connection, window, model_version, closed_only=True)


def find_draw(connection: Connection, span: Span, round_no: int) -> Row[Any] | None:
    """Return the row of the segment's draw of this round, or None."""
    asked = select(draw_table).where(
        draw_table.c.window_name == span.window,
        draw_table.c.model_version == span.model_version,
        draw_table.c.round == round_no,
    )
    return connection.execute(asked).one_or_none()


def insert_draw(connection: Connection, span: Span, round_no: int, kind: str, facts: dict[str, Any]) -> int:
    """Store a draw and return its number."""
    row = {"window_name": span.window, "model_version": span.model_version, "round": round_no, "kind": kind, **facts}
    return int(connection.execute(insert(draw_table).values(row).returning(draw_table.c.id)).scalar_one())


def insert_parts(connection: Connection, table: Any, rows: list[dict[str, Any]]) -> None:
    """Insert any number of rows, so many a statement."""
    for start in range(0, len(rows), _ROWS_A_STATEMENT):
        connection.execute(insert(table).values(rows[start : start + _ROWS_A_STATEMENT]))


def draw_size(connection: Connection, draw_id: int) -> int:
    """Return how many tasks a draw made."""
    return int(connection.execute(select(func.count()).where(label_task.c.draw_id == draw_id)).scalar_one())


def _make_tasks(connection: Connection, span: Span, draw_id: int, strata: int, now: datetime) -> int:
    values = {**span.binds(), "draw": draw_id, "strata": strata, "now": require_utc(now)}
    return connection.execute(_MAKE_TASKS, values).rowcount


def _population(connection: Connection, span: Span) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(_POPULATION, span.binds()).mappings()]


def _frozen(connection: Connection, draw_id: int, span: Span) -> StratumCounts:
    rows = connection.execute(select(draw_stratum).where(draw_stratum.c.draw_id == draw_id)).mappings()
    return _stratum_counts(span.classes, [dict(row) for row in rows])


def _stratum_counts(classes: tuple[str, ...], rows: Iterable[dict[str, Any]]) -> StratumCounts:
    import numpy as np

    shape = (len(classes), CONFIDENCE_BINS)
    population, drawn = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    confidence = np.full(shape, np.nan)
    for row in rows:
        at = row["predicted"], row["conf_bin"]
        population[at] = row["population"]
        drawn[at] = row.get("drawn", 0)
        confidence[at] = row["sum_conf"] / row["population"]
    answers = np.zeros((*shape, len(classes) + 1), np.int64)
    return StratumCounts(classes, population, np.zeros(shape, np.int64), answers, drawn, confidence)


def _with_answers(connection: Connection, span: Span, frozen: StratumCounts) -> StratumCounts:
    column = {name: n for n, name in enumerate((*frozen.classes, Answer.OTHER.value))}
    asked = (
        select(label_task.c.predicted, label_task.c.conf_bin, label_task.c.settled_answer, func.count())
        .where(
            label_task.c.queue == "accuracy",
            label_task.c.window_name == span.window,
            label_task.c.model_version == span.model_version,
            label_task.c.state == "settled",
        )
        .group_by(label_task.c.predicted, label_task.c.conf_bin, label_task.c.settled_answer)
    )
    for predicted, conf_bin, answer, many in connection.execute(asked):
        frozen.answers[predicted, conf_bin, column[answer]] += many
        frozen.labelled[predicted, conf_bin] += many
    return frozen


def _checked(counted: StratumCounts, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    import numpy as np

    numbers = np.asarray(sizes)
    if numbers.shape != counted.population.shape or np.any(numbers < 0) or np.any(numbers > counted.population):
        raise DataError(f"an allocation must lie within 0..N_h in each of {counted.population.shape} strata: {sizes!r}")
    return numbers


def _grow(connection: Connection, draw_id: int, frozen: StratumCounts, sizes: NDArray[np.int64]) -> None:
    import numpy as np

    predicted, bins = np.nonzero(frozen.population)
    values = {
        "strata": draw_id,
        "predicted": predicted.tolist(),
        "bins": bins.tolist(),
        "drawn": sizes[predicted, bins].tolist(),
    }
    connection.execute(_GROW, values)
