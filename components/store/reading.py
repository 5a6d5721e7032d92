"""Reading predictions back: one batch's outcome, and bounded samples of a window."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import text

from components.records import SetAside, Window
from components.store.batches import Batch
from components.store.database import Database
from components.store.predictions import ImagePlace

_ASIDE = text("SELECT item_no, name, reason, detail FROM set_aside WHERE batch_number = :number ORDER BY item_no")
_OF_BATCH = "FROM prediction p WHERE p.month = :month AND p.batch_number = :number AND p.model_version = :version"
_REVIEW = text("SELECT count(*) " + _OF_BATCH + " AND p.needs_review")
_ANSWERS = text("SELECT p.name, p.predicted " + _OF_BATCH + " ORDER BY p.item_no")
# The smallest `u` of the window are a uniform sample, the same at every call.
_PLACES = text(
    """
SELECT p.image_id, s.name, p.shard_row, b.scored_at
FROM prediction p
JOIN batch b ON b.number = p.batch_number
JOIN image_shard s ON s.id = p.shard_id
WHERE p.month BETWEEN :first_month AND :last_month AND NOT p.shadow AND b.scored_at >= :start AND b.scored_at < :end
ORDER BY p.u, p.batch_number, p.item_no
LIMIT :limit
"""
)


def items_set_aside(db: Database, batch: Batch) -> list[SetAside]:
    """Return the items of a batch that were not scored, with the rule that set each aside."""
    with db.transaction() as connection:
        return [SetAside(*row) for row in connection.execute(_ASIDE, {"number": batch.number})]


def needing_review(db: Database, batch: Batch) -> int:
    """Return how many predictions of a batch are too uncertain to be used unseen."""
    with db.transaction() as connection:
        return int(connection.execute(_REVIEW, _of(batch)).scalar_one())


def batch_answers(db: Database, batch: Batch) -> list[tuple[str, str]]:
    """Return (file name, predicted class) of every prediction of a batch, by item number."""
    with db.transaction() as connection:
        return [(name, batch.classes[predicted]) for name, predicted in connection.execute(_ANSWERS, _of(batch))]


def sample_places(db: Database, window: Window, limit: int) -> list[ImagePlace]:
    """Return where the pixels of up to `limit` of the window's predictions lie: a uniform sample, always the same."""
    values = {
        "first_month": window.start.date().replace(day=1),
        "last_month": (window.end - timedelta(days=1)).date().replace(day=1),
        "start": window.start,
        "end": window.end,
        "limit": limit,
    }
    with db.transaction() as connection:
        return [ImagePlace(*row) for row in connection.execute(_PLACES, values)]


def _of(batch: Batch) -> dict[str, object]:
    return {"month": batch.month, "number": batch.number, "version": batch.model_version}
