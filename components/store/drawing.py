"""Samples of predictions: frozen populations, drawn by the smallest `u`, counted as the estimators need them.

Everything a draw uses is stored in its own transaction: the closed batches that were the population, N_h and n_h of
every stratum (predicted class by confidence bin), and a task with its inclusion probability for every drawn row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sqlalchemy import Connection, Row, func, insert, select, text

from components.errors import ConfigurationError, DataError
from components.records import CONFIDENCE_BINS, Answer, StratumCounts, Window, require_utc
from components.store.class_lists import classes_of
from components.store.database import Database
from components.store.tables import draw as draw_table
from components.store.tables import draw_batch, draw_stratum, label_task
from components.store.tables import model_version as model_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FIRST, TOP_UP = 1, 2

_FREEZE_BATCHES = text(
    """
INSERT INTO draw_batch (draw_id, batch_number)
SELECT CAST(:draw AS bigint), number FROM batch
WHERE scored_at >= :start AND scored_at < :end AND model_version = :version AND state = 'closed'
"""
)
# Confidences are summed as whole millionths: a sum of floats depends on the order of reading, a draw must not.
_POPULATION = """
SELECT predicted, conf_bin, count(*) AS population,
    sum(CAST(round(confidence * 1000000) AS bigint)) / 1000000.0 AS sum_conf
FROM prediction
WHERE month BETWEEN :first_month AND :last_month AND model_version = :version AND NOT shadow
    AND batch_number = ANY(CAST(:batches AS bigint[]))
GROUP BY predicted, conf_bin
"""
_LIVE_POPULATION = text(_POPULATION)
_FREEZE_STRATA = text(
    "INSERT INTO draw_stratum (draw_id, predicted, conf_bin, population, sum_conf, drawn)"
    " SELECT CAST(:draw AS bigint), p.predicted, p.conf_bin, p.population, p.sum_conf, 0 FROM (" + _POPULATION + ") p"
)
_SET_DRAWN = text(
    """
UPDATE draw_stratum s SET drawn = w.drawn
FROM unnest(CAST(:predicted AS int[]), CAST(:bins AS int[]), CAST(:drawn AS bigint[])) w (predicted, conf_bin, drawn)
WHERE s.draw_id = :draw AND s.predicted = w.predicted AND s.conf_bin = w.conf_bin
"""
)
# The n_h smallest u of every stratum, each by one walk along the index; rows drawn before are left alone.
_MAKE_TASKS = text(
    """
INSERT INTO label_task (
    queue, window_name, model_version, class_list_id, draw_id, month, batch_number, item_no, image_id,
    shard_id, shard_row, predicted, conf_bin, u, inclusion_probability, wanted, state, created_at
)
SELECT 'accuracy', :window, CAST(:version AS integer), CAST(:class_list AS integer), CAST(:draw AS bigint), p.month,
    p.batch_number, p.item_no, p.image_id, p.shard_id, p.shard_row, p.predicted, p.conf_bin, p.u,
    CAST(s.drawn AS double precision) / s.population, CAST(:wanted AS smallint), 'open', :now
FROM draw_stratum s
CROSS JOIN LATERAL (
    SELECT * FROM prediction
    WHERE month BETWEEN :first_month AND :last_month AND model_version = :version AND NOT shadow
        AND predicted = s.predicted AND conf_bin = s.conf_bin
        AND batch_number = ANY(CAST(:batches AS bigint[]))
    ORDER BY u, batch_number, item_no
    LIMIT s.drawn
) p
WHERE s.draw_id = :strata
ON CONFLICT (queue, window_name, model_version, batch_number, item_no) DO NOTHING
"""
)
_REWEIGH = text(
    """
UPDATE label_task t SET inclusion_probability = CAST(s.drawn AS double precision) / s.population
FROM draw_stratum s
WHERE s.draw_id = :strata AND t.draw_id = :strata AND t.predicted = s.predicted AND t.conf_bin = s.conf_bin
"""
)

Kind = Literal["reference", "regular"]
Allocation = Callable[[StratumCounts], "NDArray[np.int64]"]


class Response(NamedTuple):
    """How far a draw is answered: tasks with a verdict or in adjudication, tasks drawn, and when."""

    answered: int
    drawn: int
    drawn_at: datetime


def freeze_and_draw(
    db: Database,
    window: Window,
    model_version: int,
    *,
    allocate: Allocation,
    kind: Kind,
    budget: int,
    now: datetime,
    answers_per_task: int = 1,
) -> int:
    """Freeze the segment's population and draw its sample; return the number of tasks. A second call returns the first's.

    allocate: given StratumCounts with population and confidence, returns (K, B) n_h. The population is every row of
    the segment's closed batches; what arrives later is never drawn.
    Raises DataError if an n_h is negative or above its N_h.
    """
    with db.transaction() as connection:
        segment = _lock_segment(connection, window, model_version)
        stored = _find(connection, segment, FIRST)
        if stored is not None:
            return _size(connection, stored.id)
        draw_id = _insert_draw(connection, segment, FIRST, kind, budget, now)
        connection.execute(_FREEZE_BATCHES, {**segment, "draw": draw_id})
        span = {**segment, "draw": draw_id, "batches": _frozen_batches(connection, draw_id)}
        connection.execute(_FREEZE_STRATA, span)
        frozen = _strata(connection, draw_id, segment["classes"])
        _set_drawn(connection, draw_id, frozen, allocate(frozen))
        return _make_tasks(connection, span, draw_id, answers_per_task, now)


def top_up(db: Database, window: Window, model_version: int, extra: NDArray[np.int64], now: datetime) -> int:
    """Draw `extra` (K, B) further rows, the next-smallest `u` of each stratum; return how many tasks that made.

    Strata with fewer rows left give what they have. Inclusion probabilities of the whole sample follow. A second
    call returns the first one's number. Raises ConfigurationError if there is no first draw.
    """
    import numpy as np

    with db.transaction() as connection:
        segment = _lock_segment(connection, window, model_version)
        first = _find(connection, segment, FIRST)
        if first is None:
            raise ConfigurationError(f"window {window.name}, model {model_version}: nothing was drawn; draw first")
        stored = _find(connection, segment, TOP_UP)
        if stored is not None:
            return _size(connection, stored.id)
        frozen = _strata(connection, first.id, segment["classes"])
        if np.shape(extra) != frozen.population.shape or np.any(np.asarray(extra) < 0):
            raise DataError(f"a top-up must be {frozen.population.shape} numbers of 0 or more, not {extra!r}")
        draw_id = _insert_draw(connection, segment, TOP_UP, "topup", int(np.sum(extra)), now)
        _set_drawn(connection, first.id, frozen, np.minimum(frozen.drawn + extra, frozen.population))
        span = {**segment, "draw": draw_id, "batches": _frozen_batches(connection, first.id)}
        wanted = connection.scalar(select(func.max(label_task.c.wanted)).where(label_task.c.draw_id == first.id))
        made = _make_tasks(connection, span, first.id, wanted or 1, now)
        connection.execute(_REWEIGH, {"strata": first.id})
        return made


def counts(db: Database, window: Window, model_version: int) -> StratumCounts:
    """Return N_h, n_h and x_hy of the segment: frozen where a draw was made, else its rows so far and no labels."""
    with db.transaction() as connection:
        segment = _segment(connection, window, model_version)
        first = _find(connection, segment, FIRST)
        if first is None:
            batches = connection.scalars(
                text(
                    "SELECT number FROM batch WHERE scored_at >= :start AND scored_at < :end AND model_version = :version"
                ),
                segment,
            ).all()
            rows = connection.execute(_LIVE_POPULATION, {**segment, "batches": list(batches)}).all()
            return _empty_counts(segment["classes"], [(*row, 0) for row in rows])
        return _with_answers(connection, segment, _strata(connection, first.id, segment["classes"]))


def response(db: Database, window: Window, model_version: int, round_no: int) -> Response | None:
    """Return how far round 1 (the draw) or 2 (its top-up) is answered, or None if it was not drawn."""
    with db.transaction() as connection:
        found = _find(connection, _segment(connection, window, model_version), round_no)
        if found is None:
            return None
        answered = select(func.count()).where(label_task.c.draw_id == found.id, label_task.c.state != "open")
        return Response(connection.execute(answered).scalar_one(), _size(connection, found.id), found.frozen_at)


def draw_kind(db: Database, window: Window, model_version: int) -> str | None:
    """Return "reference" or "regular", how the segment's first draw was made, or None without one."""
    with db.transaction() as connection:
        found = _find(connection, _segment(connection, window, model_version), FIRST)
    return None if found is None else str(found.kind)


def _segment(connection: Connection, window: Window, model_version: int) -> dict[str, Any]:
    asked = select(model_table.c.class_list_id).where(model_table.c.version == model_version)
    class_list = connection.execute(asked).scalar_one_or_none()
    if class_list is None:
        raise ConfigurationError(f"model version {model_version} is not registered")
    return {
        "window": window.name,
        "start": window.start,
        "end": window.end,
        "first_month": window.start.date().replace(day=1),
        "last_month": (window.end - timedelta(days=1)).date().replace(day=1),
        "version": model_version,
        "class_list": class_list,
        "classes": classes_of(connection, class_list),
    }


def _lock_segment(connection: Connection, window: Window, model_version: int) -> dict[str, Any]:
    name = f"draw {window.name} {model_version}"
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name})
    return _segment(connection, window, model_version)


def _find(connection: Connection, segment: dict[str, Any], round_no: int) -> Row[Any] | None:
    return connection.execute(
        select(draw_table).where(
            draw_table.c.window_name == segment["window"],
            draw_table.c.model_version == segment["version"],
            draw_table.c.round == round_no,
        )
    ).one_or_none()


def _insert_draw(
    connection: Connection, segment: dict[str, Any], round_no: int, kind: str, budget: int, now: datetime
) -> int:
    row = {
        "window_name": segment["window"],
        "model_version": segment["version"],
        "round": round_no,
        "kind": kind,
        "budget": budget,
        "frozen_at": require_utc(now),
    }
    return int(connection.execute(insert(draw_table).values(row).returning(draw_table.c.id)).scalar_one())


def _frozen_batches(connection: Connection, draw_id: int) -> list[int]:
    asked = select(draw_batch.c.batch_number).where(draw_batch.c.draw_id == draw_id)
    return list(connection.scalars(asked.order_by(draw_batch.c.batch_number)))


def _size(connection: Connection, draw_id: int) -> int:
    return int(connection.execute(select(func.count()).where(label_task.c.draw_id == draw_id)).scalar_one())


def _make_tasks(connection: Connection, span: dict[str, Any], strata: int, wanted: int, now: datetime) -> int:
    values = {**span, "strata": strata, "wanted": wanted, "now": require_utc(now)}
    return connection.execute(_MAKE_TASKS, values).rowcount


def _strata(connection: Connection, draw_id: int, classes: tuple[str, ...]) -> StratumCounts:
    asked = select(
        draw_stratum.c.predicted,
        draw_stratum.c.conf_bin,
        draw_stratum.c.population,
        draw_stratum.c.sum_conf,
        draw_stratum.c.drawn,
    ).where(draw_stratum.c.draw_id == draw_id)
    return _empty_counts(classes, [tuple(row) for row in connection.execute(asked)])


def _empty_counts(classes: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> StratumCounts:
    import numpy as np

    shape = (len(classes), CONFIDENCE_BINS)
    population, drawn = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    confidence = np.full(shape, np.nan)
    for predicted, conf_bin, many, sum_conf, taken in rows:
        population[predicted, conf_bin] = many
        drawn[predicted, conf_bin] = taken
        confidence[predicted, conf_bin] = float(sum_conf) / many
    answers = np.zeros((*shape, len(classes) + 1), np.int64)
    return StratumCounts(classes, population, np.zeros(shape, np.int64), answers, drawn, confidence)


def _with_answers(connection: Connection, segment: dict[str, Any], frozen: StratumCounts) -> StratumCounts:
    column = {name: n for n, name in enumerate((*frozen.classes, Answer.OTHER.value))}
    asked = (
        select(label_task.c.predicted, label_task.c.conf_bin, label_task.c.settled_answer, func.count())
        .where(
            label_task.c.queue == "accuracy",
            label_task.c.window_name == segment["window"],
            label_task.c.model_version == segment["version"],
            label_task.c.state == "settled",
        )
        .group_by(label_task.c.predicted, label_task.c.conf_bin, label_task.c.settled_answer)
    )
    for predicted, conf_bin, answer, many in connection.execute(asked):
        frozen.answers[predicted, conf_bin, column[answer]] += many
        frozen.labelled[predicted, conf_bin] += many
    return frozen


def _set_drawn(connection: Connection, draw_id: int, frozen: StratumCounts, wanted: NDArray[np.int64]) -> None:
    import numpy as np

    numbers = np.asarray(wanted)
    if numbers.shape != frozen.population.shape or np.any(numbers < 0) or np.any(numbers > frozen.population):
        raise DataError(f"an allocation must lie within 0..N_h in each of {frozen.population.shape} strata: {wanted!r}")
    predicted, bins = np.nonzero(frozen.population)
    values = {
        "draw": draw_id,
        "predicted": predicted.tolist(),
        "bins": bins.tolist(),
        "drawn": numbers[predicted, bins].astype(np.int64).tolist(),
    }
    connection.execute(_SET_DRAWN, values)
