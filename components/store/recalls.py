"""Images that were recalled: kept in one table, and what hangs on it, tasks and pixels."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, NamedTuple

from sqlalchemy import bindparam, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY, TEXT, insert

from components.records import require_utc
from components.store.database import Database, Store, within
from components.store.tables import batch, recalled_image
from components.store.values import clean_text

_WITHDRAW = text(
    """
UPDATE label_task SET state = 'withdrawn'
WHERE image_id = ANY(:ids) AND state IN ('open', 'adjudication')
"""
).bindparams(bindparam("ids", type_=ARRAY(TEXT)))
_PIXELS = text(
    """
SELECT DISTINCT p.image_id, s.name, p.shard_row
FROM prediction p JOIN image_shard s ON s.id = p.shard_id
WHERE p.image_id = ANY(:ids)
ORDER BY s.name, p.shard_row
"""
).bindparams(bindparam("ids", type_=ARRAY(TEXT)))
# A page of what changed shows images of its window beside those of the model's reference.
_SHOWN_AT = text(
    """
SELECT DISTINCT b.scored_at FROM prediction p JOIN batch b ON b.number = p.batch_number
WHERE p.image_id = ANY(:ids)
"""
).bindparams(bindparam("ids", type_=ARRAY(TEXT)))


@dataclass(frozen=True, slots=True)
class RecalledImage:
    """One recalled image: why, by whom, since which dataset version, and how far its bytes are gone."""

    image_id: str
    reason: str
    actor: str
    recalled_at: datetime
    dataset_version: str | None
    purged_in: str | None
    erased_at: datetime | None


class StoredPixels(NamedTuple):
    """Where the image store keeps the pixels of an image; one scored twice lies in two places."""

    image_id: str
    shard: str
    row: int


class OpenBatch(NamedTuple):
    """A batch that is still being scored: its key and its month."""

    batch_id: str
    month: date


def recall(store: Store, image_ids: Sequence[str], *, reason: str, actor: str, now: datetime) -> list[str]:
    """Note that images are recalled and withdraw their unanswered tasks; return those not recalled before.

    Who recalled an image first, when and why stays.
    """
    rows = [
        {
            "image_id": image_id,
            "reason": clean_text(reason),
            "actor": clean_text(actor),
            "recalled_at": require_utc(now),
        }
        for image_id in image_ids
    ]
    added = insert(recalled_image).on_conflict_do_nothing().returning(recalled_image.c.image_id)
    with within(store) as connection:
        new = list(connection.scalars(added, rows)) if rows else []
        connection.execute(_WITHDRAW, {"ids": list(image_ids)})
    return sorted(new)


def recalled(store: Store, image_ids: Collection[str]) -> dict[str, RecalledImage]:
    """Return what is noted about those of the images that are recalled."""
    asked = select(recalled_image).where(recalled_image.c.image_id.in_(list(image_ids)))
    with within(store) as connection:
        return {row["image_id"]: RecalledImage(**row) for row in connection.execute(asked).mappings()}


def recalled_among(db: Database, image_ids: Iterable[str]) -> set[str]:
    """Return which of the images are recalled."""
    asked = text("SELECT image_id FROM recalled_image WHERE image_id = ANY(CAST(:ids AS text[]))")
    with db.transaction() as connection:
        return set(connection.scalars(asked, {"ids": list(image_ids)}))


def recalled_ids(db: Database) -> list[str]:
    """Return the ids of all recalled images."""
    with db.transaction() as connection:
        return list(connection.scalars(select(recalled_image.c.image_id).order_by(recalled_image.c.image_id)))


def set_recalled_in(store: Store, image_ids: Sequence[str], dataset_version: str) -> list[str]:
    """Note the dataset version that first says so; return the images of which that was not noted before."""
    return _set_once(store, image_ids, "dataset_version", dataset_version)


def set_purged_in(store: Store, image_ids: Sequence[str], dataset_version: str) -> list[str]:
    """Note the first dataset version without the images' bytes; return the images of which that was not noted."""
    return _set_once(store, image_ids, "purged_in", dataset_version)


def set_erased(store: Store, image_ids: Sequence[str], now: datetime) -> list[str]:
    """Note that the images' bytes are gone everywhere; return the images of which that was not noted before."""
    return _set_once(store, image_ids, "erased_at", require_utc(now))


def stored_pixels(db: Database, image_ids: Collection[str]) -> list[StoredPixels]:
    """Return every place of the image store that the predictions of these images name; reads all months."""
    with db.transaction() as connection:
        return [StoredPixels(*row) for row in connection.execute(_PIXELS, {"ids": list(image_ids)})]


def scored_at(db: Database, image_ids: Collection[str]) -> list[datetime]:
    """Return the moments at which these images were scored; reads all months."""
    with db.transaction() as connection:
        return sorted(require_utc(moment) for moment in connection.scalars(_SHOWN_AT, {"ids": list(image_ids)}))


def unfinished_batches(db: Database) -> list[OpenBatch]:
    """Return the batches that are being scored, or were when their process died: no rows name all their pixels yet."""
    asked = select(batch.c.id, batch.c.month).where(batch.c.state == "open").order_by(batch.c.number)
    with db.transaction() as connection:
        return [OpenBatch(*row) for row in connection.execute(asked)]


def count_open_tasks(db: Database, image_ids: Collection[str]) -> dict[str, int]:
    """Return how many tasks still ask people about each of these images; those without any are left out."""
    asked = text(
        "SELECT image_id, count(*) FROM label_task WHERE image_id = ANY(CAST(:ids AS text[]))"
        " AND state IN ('open', 'adjudication') GROUP BY image_id"
    )
    with db.transaction() as connection:
        return {image_id: int(many) for image_id, many in connection.execute(asked, {"ids": list(image_ids)})}


def _set_once(store: Store, image_ids: Sequence[str], column: str, value: Any) -> list[str]:
    empty = recalled_image.c[column].is_(None)
    change = update(recalled_image).where(recalled_image.c.image_id.in_(list(image_ids)), empty)
    with within(store) as connection:
        changed = connection.scalars(change.values({column: value}).returning(recalled_image.c.image_id))
        return sorted(changed)
