"""Reading predictions back: one batch's outcome, and bounded samples of a window, recalled images left out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import text

from components.records import SetAside, Window
from components.store.database import Database
from components.store.predictions import ImagePlace
from components.store.scored.batches import Batch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Of one model's predictions: those that people contradicted first, a gap is made of them, then the smallest `u`.
_LOGGED = text(
    """
SELECT p.image_id, s.name, p.shard_row, b.scored_at, p.probabilities
FROM prediction p
JOIN batch b ON b.number = p.batch_number
JOIN image_shard s ON s.id = p.shard_id
LEFT JOIN label_task t ON t.queue = 'accuracy' AND t.window_name = :window AND t.model_version = p.model_version
    AND t.month = p.month AND t.batch_number = p.batch_number AND t.item_no = p.item_no
LEFT JOIN class_list c ON c.id = t.class_list_id
WHERE p.month BETWEEN :first_month AND :last_month AND NOT p.shadow AND p.model_version = :version
    AND b.scored_at >= :start AND b.scored_at < :end
    AND NOT EXISTS (SELECT 1 FROM recalled_image r WHERE r.image_id = p.image_id)
ORDER BY coalesce(t.settled_answer <> c.classes[t.predicted + 1], FALSE) DESC, p.u, p.batch_number, p.item_no
LIMIT :limit
"""
)
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
    AND NOT EXISTS (SELECT 1 FROM recalled_image r WHERE r.image_id = p.image_id)
ORDER BY p.u, p.batch_number, p.item_no
LIMIT :limit
"""
)
_IMAGES = text(
    """
SELECT p.image_id, s.name, p.shard_row, b.scored_at, c.classes[p.predicted + 1]
FROM prediction p
JOIN batch b ON b.number = p.batch_number
JOIN image_shard s ON s.id = p.shard_id
JOIN model_version m ON m.version = p.model_version
JOIN class_list c ON c.id = m.class_list_id
WHERE p.month BETWEEN :first_month AND :last_month AND NOT p.shadow AND b.scored_at >= :start AND b.scored_at < :end
    AND (CAST(:version AS integer) IS NULL OR p.model_version = :version)
    AND NOT EXISTS (SELECT 1 FROM recalled_image r WHERE r.image_id = p.image_id)
ORDER BY p.u, p.batch_number, p.item_no
LIMIT :limit
"""
)


@dataclass(frozen=True, slots=True)
class SampledImage:
    """One image of a sample: where its pixels lie, and the class it was called when it was scored."""

    place: ImagePlace
    predicted: str


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
    with db.transaction() as connection:
        return [ImagePlace(*row) for row in connection.execute(_PLACES, {**_of_window(window), "limit": limit})]


def sample_images(db: Database, window: Window, model_version: int | None, limit: int) -> list[SampledImage]:
    """Return up to `limit` different images of a segment (None: of all models'): a uniform sample, always the same."""
    values = {**_of_window(window), "version": model_version, "limit": limit}
    with db.transaction() as connection:
        rows = [SampledImage(ImagePlace(*row[:4]), row[4]) for row in connection.execute(_IMAGES, values)]
    return list({row.place.image_id: row for row in reversed(rows)}.values())[::-1]


def logged_answers(
    db: Database, window: Window, model_version: int, limit: int
) -> list[tuple[ImagePlace, NDArray[np.float64]]]:
    """Return up to `limit` of a model's predictions in a window, those that people contradicted first.

    Each with where its pixels lie and the probabilities (K,) that were logged, in the model's class order.
    """
    import numpy as np

    values = {**_of_window(window), "window": window.name, "version": model_version, "limit": limit}
    with db.transaction() as connection:
        rows = connection.execute(_LOGGED, values).all()
    return [(ImagePlace(*row[:4]), np.frombuffer(row[4], "<f2").astype(np.float64)) for row in rows]


def _of_window(window: Window) -> dict[str, object]:
    return {
        "first_month": window.start.date().replace(day=1),
        "last_month": (window.end - timedelta(days=1)).date().replace(day=1),
        "start": window.start,
        "end": window.end,
    }


def _of(batch: Batch) -> dict[str, object]:
    return {"month": batch.month, "number": batch.number, "version": batch.model_version}
