"""What people are asked and what they answered: queues, append-only answers, verdicts, export to training."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import text

from components.errors import DataError
from components.records import LabelTask, Window, require_utc
from components.store.answers import record_answers
from components.store.database import Database, Store, within
from components.store.drawing import Response, counts, draw_kind, freeze_and_draw, response, top_up

__all__ = [
    "Response",
    "SettledLabel",
    "TaskImage",
    "counts",
    "draw_kind",
    "fill_training_queue",
    "freeze_and_draw",
    "mark_exported",
    "new_settled_count",
    "queue_sizes",
    "record_answers",
    "response",
    "settled_labels",
    "task_images",
    "tasks",
    "top_up",
]

# The runner-up counts too: a class that loses recall is found among its neighbours' predictions.
_FILL = text(
    """
INSERT INTO label_task (
    queue, window_name, model_version, class_list_id, month, batch_number, item_no, image_id,
    shard_id, shard_row, predicted, conf_bin, u, wanted, state, created_at
)
SELECT 'training', :window, CAST(:version AS integer), m.class_list_id, p.month, p.batch_number, p.item_no, p.image_id,
    p.shard_id, p.shard_row, p.predicted, p.conf_bin, p.u, CAST(:wanted AS smallint), 'open', :now
FROM model_version m
CROSS JOIN LATERAL (
    SELECT DISTINCT ON (q.image_id) q.* FROM (
        SELECT * FROM prediction r
        WHERE r.month BETWEEN :first_month AND :last_month AND r.model_version = :version AND NOT r.shadow
            AND r.batch_number = ANY(ARRAY(
                SELECT number FROM batch WHERE scored_at >= :start AND scored_at < :end AND model_version = :version))
            AND (:all_classes OR r.predicted = ANY(CAST(:classes AS smallint[]))
                OR r.top3_class[2] = ANY(CAST(:classes AS smallint[])))
            AND NOT EXISTS (SELECT 1 FROM label_task t WHERE t.image_id = r.image_id)
        ORDER BY r.confidence, r.u
        LIMIT CAST(:limit AS bigint) * 4
    ) q
    ORDER BY q.image_id, q.confidence, q.u
) p
WHERE m.version = :version
ORDER BY p.confidence, p.u
LIMIT :limit
ON CONFLICT DO NOTHING
"""
)
_TASKS = text(
    """
SELECT t.id, t.queue, t.image_id, c.classes, t.window_name
FROM label_task t JOIN class_list c ON c.id = t.class_list_id
WHERE t.queue = :queue AND t.state = ANY(CAST(:states AS text[]))
ORDER BY t.u / coalesce(t.inclusion_probability, 1), t.id
LIMIT :limit
"""
)
_TO_EXPORT = """
FROM label_task t
JOIN class_list c ON c.id = t.class_list_id
JOIN batch b ON b.number = t.batch_number
JOIN image_shard s ON s.id = t.shard_id
WHERE t.state = 'settled' AND t.settled_answer = ANY(c.classes)
"""
_SETTLED = text(
    "SELECT t.id, t.image_id, t.settled_answer, t.window_name, t.model_version, c.classes[t.predicted + 1],"
    " ARRAY(SELECT DISTINCT l.annotator FROM label l WHERE l.task_id = t.id ORDER BY 1),"
    " b.scored_at, t.settled_at, s.name, t.shard_row, t.queue"
    + _TO_EXPORT
    + " AND t.exported_in IS NULL ORDER BY t.settled_at, t.id"
)
_NEW = text("SELECT count(*)" + _TO_EXPORT + " AND t.exported_in IS NULL")
_NEW_SINCE = text("SELECT count(*)" + _TO_EXPORT + " AND t.settled_at >= :since")


@dataclass(frozen=True, slots=True)
class SettledLabel:
    """One verdict on its way into the training data. `predicted` is what the model had said."""

    task_id: int
    image_id: str
    answer: str
    window: str
    model_version: int
    predicted: str
    annotators: tuple[str, ...]
    captured_at: datetime
    settled_at: datetime
    shard: str
    row: int
    queue: str


class TaskImage(NamedTuple):
    """Which item of which batch a task asks about."""

    task_id: int
    batch_id: str
    item_no: int
    image_id: str
    name: str


def fill_training_queue(
    db: Database,
    window: Window,
    model_version: int,
    *,
    classes: Sequence[str],
    limit: int,
    now: datetime,
    answers_per_task: int = 1,
) -> int:
    """Ask for the window's least confident predictions of `classes` (all, where none is named); return the new tasks.

    Images that any task asks about already are left out, so a training answer never replaces a blind one; the
    window's queue never grows beyond `limit`. Raises DataError for a class the model does not know.
    """
    with db.transaction() as connection:
        name = f"training queue {window.name} {model_version}"
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name})
        asked = text(
            "SELECT c.classes, (SELECT count(*) FROM label_task t WHERE t.queue = 'training'"
            " AND t.window_name = :window AND t.model_version = m.version)"
            " FROM model_version m JOIN class_list c ON c.id = m.class_list_id WHERE m.version = :version"
        )
        row = connection.execute(asked, {"window": window.name, "version": model_version}).one_or_none()
        known: list[str] = row[0] if row is not None else []
        if not set(classes) <= set(known):
            unknown = sorted(set(classes) - set(known))
            raise DataError(f"model version {model_version} does not know {unknown!r}; its classes: {known!r}")
        values = {
            "window": window.name,
            "version": model_version,
            "start": window.start,
            "end": window.end,
            "first_month": window.start.date().replace(day=1),
            "last_month": (window.end - timedelta(days=1)).date().replace(day=1),
            "classes": [known.index(name) for name in classes],
            "all_classes": not classes,
            "limit": max(0, limit - (row[1] if row is not None else 0)),
            "wanted": answers_per_task,
            "now": require_utc(now),
        }
        return connection.execute(_FILL, values).rowcount


def tasks(db: Database, queue: str, limit: int, states: Collection[str] = ("open",)) -> list[LabelTask]:
    """Return up to `limit` tasks of a queue, strata mixed at random, so that a half-finished queue leans nowhere."""
    values = {"queue": queue, "limit": limit, "states": list(states)}
    with db.transaction() as connection:
        return [LabelTask(r[0], r[1], r[2], tuple(r[3]), r[4]) for r in connection.execute(_TASKS, values)]


def queue_sizes(db: Database) -> dict[tuple[str, str], int]:
    """Return the number of tasks per (queue, state)."""
    asked = text("SELECT queue, state, count(*) FROM label_task GROUP BY queue, state")
    with db.transaction() as connection:
        return {(queue, state): many for queue, state, many in connection.execute(asked)}


def task_images(db: Database, task_ids: Sequence[int]) -> list[TaskImage]:
    """Return batch, item, image and file name of the known tasks, by task number."""
    asked = text(
        "SELECT t.id, b.id, t.item_no, t.image_id, p.name FROM label_task t JOIN batch b ON b.number = t.batch_number"
        " JOIN prediction p ON p.month = t.month AND p.batch_number = t.batch_number AND p.item_no = t.item_no"
        " AND p.model_version = t.model_version WHERE t.id = ANY(CAST(:ids AS bigint[])) ORDER BY t.id"
    )
    with db.transaction() as connection:
        return [TaskImage(*row) for row in connection.execute(asked, {"ids": list(task_ids)})]


def settled_labels(db: Database) -> list[SettledLabel]:
    """Return the verdicts that no dataset version has, oldest first; `other` teaches nothing and is left out."""
    with db.transaction() as connection:
        return [SettledLabel(*row[:6], tuple(row[6]), *row[7:]) for row in connection.execute(_SETTLED)]


def mark_exported(store: Store, task_ids: Sequence[int], dataset_version: str) -> None:
    """Note that the verdicts of these tasks are in `dataset_version`; one that changes later is exported again."""
    change = text("UPDATE label_task SET exported_in = :version WHERE id = ANY(CAST(:ids AS bigint[]))")
    with within(store) as connection:
        connection.execute(change, {"version": dataset_version, "ids": list(task_ids)})


def new_settled_count(db: Database, since: datetime | None = None) -> int:
    """Return how many trainable verdicts no dataset version has, or, with `since`, were settled from then on."""
    with db.transaction() as connection:
        if since is None:
            return int(connection.execute(_NEW).scalar_one())
        return int(connection.execute(_NEW_SINCE, {"since": require_utc(since)}).scalar_one())
