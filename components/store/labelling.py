"""What people are asked and what they answered: queues, append-only answers, verdicts, export to training."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import NamedTuple

from sqlalchemy import func, select, text

from components.errors import DataError
from components.records import LabelSetTask, LabelTask, Window, require_utc
from components.store.class_lists import class_lists
from components.store.database import Database, Store, within
from components.store.draws.drawing import Response, counts, draw_kind, drawn_windows, freeze_and_draw, response, top_up
from components.store.draws.spans import span_of
from components.store.queues.answers import record_answers
from components.store.tables import label_task

__all__ = [
    "Response",
    "SettledLabel",
    "TaskPlace",
    "counts",
    "draw_kind",
    "drawn_windows",
    "fill_training_queue",
    "freeze_and_draw",
    "mark_exported",
    "months_in_use",
    "new_settled_count",
    "open_count",
    "places",
    "queue_response",
    "record_answers",
    "response",
    "settled_labels",
    "tasks",
    "top_up",
]

# The least confident predictions; the runner-up counts too: a class that loses recall is found among its neighbours'
# predictions. With `by_chance` any prediction of the classes, as `u` has it.
_FILL = text(
    """
INSERT INTO label_task (
    queue, window_name, model_version, class_list_id, month, batch_number, item_no, image_id,
    shard_id, shard_row, predicted, conf_bin, u, state, created_at
)
SELECT 'training', :window, CAST(:version AS integer), CAST(:class_list AS integer), p.month, p.batch_number,
    p.item_no, p.image_id, p.shard_id, p.shard_row, p.predicted, p.conf_bin, p.u, 'open', :now
FROM (
    SELECT DISTINCT ON (q.image_id) q.* FROM (
        SELECT * FROM prediction r
        WHERE r.month BETWEEN :first_month AND :last_month AND r.model_version = :version AND NOT r.shadow
            AND r.batch_number = ANY(CAST(:batches AS bigint[]))
            AND (
                r.predicted = ANY(CAST(:wanted AS smallint[]))
                OR NOT :by_chance AND r.second_class = ANY(CAST(:wanted AS smallint[]))
            )
            AND NOT EXISTS (SELECT 1 FROM label_task t WHERE t.image_id = r.image_id)
        ORDER BY CASE WHEN :by_chance THEN r.u ELSE r.confidence END, r.u
        LIMIT CAST(:limit AS bigint) * 4
    ) q
    ORDER BY q.image_id, q.confidence, q.u
) p
ORDER BY CASE WHEN :by_chance THEN p.u ELSE p.confidence END, p.u
LIMIT :limit
"""
)
# The same of labels: the least confident decisions about them, whether they are there or not, and predictions of them.
_FILL_OF_LABELS = text(
    """
INSERT INTO label_task (
    queue, window_name, model_version, class_list_id, month, batch_number, item_no, image_id,
    shard_id, shard_row, predicted, conf_bin, u, state, created_at
)
SELECT 'training', :window, CAST(:version AS integer), CAST(:class_list AS integer), p.month, p.batch_number,
    p.item_no, p.image_id, p.shard_id, p.shard_row, p.predicted, p.conf_bin, p.u, 'open', :now
FROM (
    SELECT DISTINCT ON (q.image_id) q.* FROM (
        SELECT r.*, l.confidence AS in_label FROM label_prediction l
        JOIN prediction r ON r.month = l.month AND r.batch_number = l.batch_number AND r.item_no = l.item_no
            AND r.model_version = l.model_version
        WHERE l.month BETWEEN :first_month AND :last_month AND l.model_version = :version AND NOT l.shadow
            AND l.batch_number = ANY(CAST(:batches AS bigint[])) AND l.label = ANY(CAST(:wanted AS smallint[]))
            AND (l.positive OR NOT :by_chance)
            AND NOT EXISTS (SELECT 1 FROM label_task t WHERE t.image_id = r.image_id)
        ORDER BY CASE WHEN :by_chance THEN l.u ELSE l.confidence END, l.u
        LIMIT CAST(:limit AS bigint) * 4
    ) q
    ORDER BY q.image_id, q.in_label, q.u
) p
ORDER BY CASE WHEN :by_chance THEN p.u ELSE p.in_label END, p.u
LIMIT :limit
"""
)
_TASKS = text(
    """
SELECT t.id, t.queue, t.image_id, t.class_list_id, t.window_name FROM label_task t
WHERE t.queue = :queue AND t.state = ANY(CAST(:states AS text[]))
ORDER BY t.u / coalesce(t.inclusion_probability, 1), t.id
LIMIT :limit
"""
)
_PLACES = text(
    """
SELECT t.id, b.id, t.item_no, t.image_id, p.name, s.name, t.shard_row
FROM label_task t
JOIN batch b ON b.number = t.batch_number
JOIN image_shard s ON s.id = t.shard_id
JOIN prediction p ON p.month = t.month AND p.batch_number = t.batch_number AND p.item_no = t.item_no
    AND p.model_version = t.model_version
WHERE t.id = ANY(CAST(:ids AS bigint[]))
ORDER BY t.id
"""
)
_SETTLED = text(
    'SELECT task_id, image_id, answer, "window", model_version, predicted, annotators, captured_at, settled_at, shard,'
    " row, queue FROM trainable_label WHERE exported_in IS NULL AND queue <> 'audit'"
    " ORDER BY settled_at, task_id"
)
_IN_USE = text(
    """
SELECT DISTINCT t.month FROM label_task t JOIN class_list c ON c.id = t.class_list_id
WHERE t.month IS NOT NULL AND ((
        t.state = 'settled' AND t.exported_in IS NULL AND t.queue <> 'check'
        AND CASE WHEN c.several THEN t.settled_answer LIKE '[%' ELSE t.settled_answer = ANY(c.classes) END
        AND NOT EXISTS (SELECT 1 FROM recalled_image r WHERE r.image_id = t.image_id)
    )
    OR (t.state IN ('open', 'adjudication') AND t.created_at >= :since))
"""
)


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


class TaskPlace(NamedTuple):
    """Which item of which batch a task asks about, and where the image store keeps its pixels."""

    task_id: int
    batch_id: str
    item_no: int
    image_id: str
    name: str
    shard: str
    row: int


def fill_training_queue(
    db: Database,
    window: Window,
    model_version: int,
    *,
    classes: Sequence[str],
    limit: int,
    now: datetime,
) -> int:
    """Ask for predictions of `classes` (all, where none is named) in the window; return how many new tasks.

    Half of them are the least confident ones. The other half is drawn by chance among what was predicted as one of the
    classes: where images have come to mean another class, the model is as sure of them as ever.
    Images that any task asks about already are left out, so a training answer never replaces a blind one; the
    window's queue never grows beyond `limit`. Raises DataError for a class the model does not know.
    """
    with db.transaction() as connection:
        name = f"training queue {window.name} {model_version}"
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name})
        span = span_of(connection, window, model_version)
        unknown = sorted(set(classes) - set(span.classes))
        if unknown:
            raise DataError(f"model version {model_version} does not know {unknown!r}; its classes: {span.classes!r}")
        there = select(func.count()).where(
            label_task.c.queue == "training",
            label_task.c.window_name == window.name,
            label_task.c.model_version == model_version,
        )
        room = max(0, limit - connection.execute(there).scalar_one())
        values = {
            **span.binds(),
            "wanted": [span.classes.index(one) for one in classes or span.classes],
            "now": require_utc(now),
        }
        made = 0
        for by_chance, share in ((False, (room + 1) // 2), (True, room)):
            asked = {**values, "by_chance": by_chance, "limit": share - made}
            made += connection.execute(_FILL_OF_LABELS if span.several else _FILL, asked).rowcount
        return made


def tasks(db: Database, queue: str, limit: int | None, states: Collection[str] = ("open",)) -> list[LabelTask]:
    """Return up to `limit` tasks of a queue, strata mixed at random, so that a half-finished queue leans nowhere."""
    values = {"queue": queue, "limit": limit, "states": list(states)}
    with db.transaction() as connection:
        rows = connection.execute(_TASKS, values).all()
        lists = class_lists(connection, (row.class_list_id for row in rows))
        kinds = {number: (LabelSetTask if found.several else LabelTask) for number, found in lists.items()}
        return [
            kinds[r.class_list_id](r.id, r.queue, r.image_id, lists[r.class_list_id].classes, r.window_name)
            for r in rows
        ]


def open_count(db: Database, queue: str) -> int:
    """Return how many tasks of a queue have no verdict yet and need no adjudication."""
    asked = select(func.count()).where(label_task.c.queue == queue, label_task.c.state == "open")
    with db.transaction() as connection:
        return int(connection.execute(asked).scalar_one())


def queue_response(db: Database, queue: str, window: str | None) -> tuple[int, int]:
    """Return how many tasks of a queue (of one window, or of all) are answered, and how many there are."""
    answered = func.count().filter(label_task.c.state != "open")
    asked = select(answered, func.count()).where(label_task.c.queue == queue)
    if window is not None:
        asked = asked.where(label_task.c.window_name == window)
    with db.transaction() as connection:
        row = connection.execute(asked).one()
    return int(row[0]), int(row[1])


def places(db: Database, task_ids: Sequence[int]) -> list[TaskPlace]:
    """Return batch, item, file name and pixels' place of the known tasks, by task number."""
    with db.transaction() as connection:
        return [TaskPlace(*row) for row in connection.execute(_PLACES, {"ids": list(task_ids)})]


def settled_labels(db: Database) -> list[SettledLabel]:
    """Return the verdicts that no dataset version has, oldest first; `other` teaches nothing and is left out."""
    with db.transaction() as connection:
        rows = connection.execute(_SETTLED).mappings().all()
    return [SettledLabel(**{**row, "annotators": tuple(row["annotators"])}) for row in rows]


def mark_exported(store: Store, task_ids: Sequence[int], dataset_version: str) -> None:
    """Note that the verdicts of these tasks are in `dataset_version`; one that changes later is exported again."""
    change = text("UPDATE label_task SET exported_in = :version WHERE id = ANY(CAST(:ids AS bigint[]))")
    with within(store) as connection:
        connection.execute(change, {"version": dataset_version, "ids": list(task_ids)})


def new_settled_count(db: Database, since: datetime | None = None) -> int:
    """Return how many trainable verdicts no dataset version has, or, with `since`, were settled from then on."""
    with db.transaction() as connection:
        if since is None:
            new = text("SELECT count(*) FROM trainable_label WHERE exported_in IS NULL")
            return int(connection.execute(new).scalar_one())
        newer = text("SELECT count(*) FROM trainable_label WHERE settled_at >= :since")
        return int(connection.execute(newer, {"since": require_utc(since)}).scalar_one())


def months_in_use(db: Database, *, asked_since: datetime) -> set[date]:
    """Return the months whose pixels are wanted: by answers no dataset version has, or by tasks asked since."""
    with db.transaction() as connection:
        return set(connection.scalars(_IN_USE, {"since": require_utc(asked_since)}))
