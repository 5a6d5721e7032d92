"""What hangs together: predictions of an image, what people answered to them, what a model did and was decided on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import TextClause, select, text

from components.records import require_utc
from components.store.database import Database
from components.store.tables import batch as batch_table
from components.store.tables import decision

MOST_MATCHES = 3

_IMAGES_FROM = text("SELECT DISTINCT image_id FROM prediction WHERE starts_with(image_id, :prefix) LIMIT :most")
_BATCHES_FROM = text('SELECT id FROM batch WHERE starts_with(id, :prefix) ORDER BY id COLLATE "C" LIMIT :most')
_PREDICTIONS = """
SELECT b.id, p.item_no, p.name, p.image_id, b.source, b.scored_at, p.model_version, c.classes[p.predicted + 1],
    p.confidence, p.shadow, p.needs_review, s.name, p.shard_row
FROM prediction p
JOIN batch b ON b.number = p.batch_number
JOIN image_shard s ON s.id = p.shard_id
JOIN model_version m ON m.version = p.model_version
JOIN class_list c ON c.id = m.class_list_id
"""
_OF_IMAGES = text(
    _PREDICTIONS + "WHERE p.image_id = ANY(CAST(:images AS text[])) ORDER BY b.scored_at, b.number, p.item_no, p.shadow"
)
_OF_ITEM = text(
    _PREDICTIONS + "WHERE b.id = :batch AND p.month = b.month AND p.item_no = :item ORDER BY p.shadow, p.model_version"
)
_TASKS = """
SELECT t.id AS task_id, t.image_id, t.queue, t.window_name AS "window", t.model_version, b.id AS batch, t.item_no,
    t.state, t.settled_answer AS verdict, t.settled_at, t.exported_in
FROM label_task t LEFT JOIN batch b ON b.number = t.batch_number
"""
_TASKS_OF_IMAGES = text(_TASKS + "WHERE t.image_id = ANY(CAST(:images AS text[])) ORDER BY t.id")
_TASKS_OF_ITEM = text(_TASKS + "WHERE b.id = :batch AND t.item_no = :item ORDER BY t.id")
_ANSWERS = text(
    "SELECT task_id, annotator, answer, answered_at FROM label WHERE task_id = ANY(CAST(:ids AS bigint[]))"
    " ORDER BY answered_at, id"
)
_SERVED = text(
    "SELECT count(*), coalesce(sum(rows), 0), min(scored_at), max(scored_at) FROM batch WHERE model_version = :version"
)


@dataclass(frozen=True, slots=True)
class LoggedPrediction:
    """One logged prediction, and where the image store keeps, or kept, its pixels."""

    batch: str
    item_no: int
    name: str
    image_id: str
    source: str
    scored_at: datetime
    model_version: int
    predicted: str
    confidence: float
    shadow: bool
    needs_review: bool
    shard: str
    row: int


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """What one person answered, and when."""

    annotator: str
    answer: str
    answered_at: datetime


@dataclass(frozen=True, slots=True)
class AskedTask:
    """One question about a prediction, all answers to it, their verdict, and the dataset version that took it in.

    Of an audit it is about an image of the dataset: there is no model, batch or item, and `window` is the dataset
    version that was audited.
    """

    task_id: int
    image_id: str
    queue: str
    window: str
    model_version: int | None
    batch: str | None
    item_no: int | None
    state: str
    verdict: str | None
    settled_at: datetime | None
    exported_in: str | None
    answers: tuple[GivenAnswer, ...]


@dataclass(frozen=True, slots=True)
class Served:
    """What a model has predicted: batches, predictions, and from when to when."""

    batches: int
    predictions: int
    first_at: datetime | None
    last_at: datetime | None


def scored_images_from(db: Database, prefix: str) -> list[str]:
    """Return up to three ids of scored images that begin with `prefix`, hexadecimal digits; reads all months."""
    with db.transaction() as connection:
        return sorted(connection.scalars(_IMAGES_FROM, {"prefix": prefix, "most": MOST_MATCHES}))


def batches_from(db: Database, prefix: str) -> list[str]:
    """Return up to three batch ids that begin with `prefix`; one that is it comes first."""
    with db.transaction() as connection:
        return list(connection.scalars(_BATCHES_FROM, {"prefix": prefix, "most": MOST_MATCHES}))


def predictions_of(db: Database, image_ids: Sequence[str]) -> list[LoggedPrediction]:
    """Return every prediction of these images, oldest first; reads all months."""
    with db.transaction() as connection:
        return [LoggedPrediction(*row) for row in connection.execute(_OF_IMAGES, {"images": list(image_ids)})]


def predictions_of_item(db: Database, batch_id: str, item_no: int) -> list[LoggedPrediction]:
    """Return the predictions of one item of a batch: the serving model's first, then those of shadow models."""
    with db.transaction() as connection:
        rows = connection.execute(_OF_ITEM, {"batch": batch_id, "item": item_no})
        return [LoggedPrediction(*row) for row in rows]


def tasks_of(db: Database, image_ids: Sequence[str]) -> list[AskedTask]:
    """Return what people were asked about these images, whatever predictions of them were drawn, and their answers."""
    return _tasks(db, _TASKS_OF_IMAGES, {"images": list(image_ids)})


def tasks_of_item(db: Database, batch_id: str, item_no: int) -> list[AskedTask]:
    """Return what people were asked about one item of a batch, and what they answered."""
    return _tasks(db, _TASKS_OF_ITEM, {"batch": batch_id, "item": item_no})


def served(db: Database, version: int) -> Served:
    """Return what a model has predicted so far, shadow predictions left out."""
    with db.transaction() as connection:
        batches, rows, first, last = connection.execute(_SERVED, {"version": version}).one()
    return Served(int(batches), int(rows), *(None if at is None else require_utc(at) for at in (first, last)))


def decisions_about(db: Database, version: int, limit: int) -> list[dict[str, object]]:
    """Return the newest `limit` rows of the ledger about a model, newest first, without their evidence."""
    columns = [decision.c[name] for name in ("at", "kind", "action", "actor", "reason", "window_name")]
    asked = select(*columns).where(decision.c.model_version == version).order_by(decision.c.id.desc()).limit(limit)
    with db.transaction() as connection:
        rows = connection.execute(asked).mappings().all()
    return [{"window" if key == "window_name" else key: value for key, value in row.items()} for row in rows]


def batch_count(db: Database, batch_id: str) -> int | None:
    """Return how many items a batch has, or None where there is no such batch."""
    with db.transaction() as connection:
        found = connection.execute(select(batch_table.c["items"]).where(batch_table.c.id == batch_id))
        return found.scalar_one_or_none()


def _tasks(db: Database, asked: TextClause, values: dict[str, Any]) -> list[AskedTask]:
    with db.transaction() as connection:
        rows = connection.execute(asked, values).mappings().all()
        given: dict[int, list[GivenAnswer]] = defaultdict(list)
        for row in connection.execute(_ANSWERS, {"ids": [row["task_id"] for row in rows]}):
            given[row.task_id].append(GivenAnswer(row.annotator, row.answer, row.answered_at))
    return [AskedTask(**row, answers=tuple(given[row["task_id"]])) for row in rows]
