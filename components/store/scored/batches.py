"""Batches: opened once under a key, filled, accounted for and closed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import CompoundSelect, Connection, Row, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from components.errors import ConfigurationError, ConflictError, DataError, IntegrityError
from components.records import SetAside, Window, require_utc
from components.store.class_lists import class_list_id, classes_of, is_several
from components.store.database import Database, Store, within
from components.store.tables import batch as batch_table
from components.store.tables import model_version as model_table
from components.store.tables import prediction, seen_file
from components.store.tables import set_aside as set_aside_table
from components.store.values import clean_text

CLOCK_SKEW = timedelta(minutes=5)
_ROWS_A_STATEMENT = 1000


@dataclass(frozen=True, slots=True)
class Batch:
    """One delivery, as its row says. `number` is its short key inside the prediction table."""

    id: str
    number: int
    content_sha256: str
    source: str
    model_version: int
    classes: tuple[str, ...]
    items: int
    scored_at: datetime
    month: date
    state: str
    rows: int
    several: bool = False


@dataclass(frozen=True, slots=True)
class Segment:
    """The predictions of one serving model in one window; several: of any number of labels an image."""

    model_version: int
    classes: tuple[str, ...]
    predictions: int
    first_at: datetime
    last_at: datetime
    several: bool = False


@dataclass(frozen=True, slots=True)
class SeenFile:
    """One file of a watched folder, as it looked when it was listed."""

    path: str
    size: int
    mtime_ns: int
    sha256: str | None = None


def open_batch(
    db: Database,
    *,
    batch_id: str,
    content_sha256: str,
    source: str,
    model_version: int,
    class_list: Sequence[str],
    items: int,
    scored_at: datetime,
    now: datetime,
    several: bool = False,
) -> Batch:
    """Return the batch called `batch_id`, made if it is new; of an existing one, time, month and model stay as stored.

    several: the model's class list is one of labels, of which an image carries any number.
    Raises ConflictError if the key came with other content before; ConfigurationError for a naive or future
    `scored_at`, an unknown model, or a class list that is not the model's.
    """
    scored_at = require_utc(scored_at)
    if scored_at > require_utc(now) + CLOCK_SKEW:
        raise ConfigurationError(f"batch {batch_id!r}: scored_at {scored_at.isoformat()} lies in the future")
    with db.transaction() as connection:
        stored = _find(connection, batch_id)
        if stored is None:
            list_id = class_list_id(connection, class_list, now, several=several)
            _check_model(connection, model_version, list_id)
            month = scored_at.date().replace(day=1)
            row = {
                "id": batch_id,
                "content_sha256": content_sha256,
                "source": clean_text(source),
                "model_version": model_version,
                "class_list_id": list_id,
                "items": items,
                "scored_at": scored_at,
                "month": month,
                "state": "open",
                "rows": 0,
                "rolled_up_rows": 0,
                "opened_at": now,
            }
            connection.execute(insert(batch_table).values(row).on_conflict_do_nothing(index_elements=["id"]))
            ensure_partition(connection, month)
            stored = _find(connection, batch_id)
    if stored is None:
        raise IntegrityError(f"batch {batch_id!r} vanished while it was opened")
    if (stored.content_sha256, stored.items) != (content_sha256, items):
        raise ConflictError(
            f"batch {batch_id!r} was delivered before with other content "
            f"({stored.items} items, sha256 {stored.content_sha256[:12]}…); choose another id"
        )
    return stored


def ensure_partition(store: Store, month: date) -> None:
    """Make the partition that holds predictions of `month`, if it is missing; any number of processes may ask."""
    with within(store) as connection:
        connection.execute(text("SELECT ensure_prediction_month(:month)"), {"month": month})


def write_set_aside(db: Database, batch: Batch, rows: Iterable[SetAside]) -> int:
    """Store which items were not scored, and why; return how many were new."""
    waiting = iter(rows)
    new = 0
    with db.transaction() as connection:
        while part := list(islice(waiting, _ROWS_A_STATEMENT)):
            values = [
                {
                    "batch_number": batch.number,
                    "item_no": row.item_no,
                    "name": clean_text(row.name),
                    "reason": row.reason,
                    "detail": clean_text(row.detail),
                }
                for row in part
            ]
            new += connection.execute(insert(set_aside_table).values(values).on_conflict_do_nothing()).rowcount
    return new


def written(db: Database, batch: Batch, *, model_version: int | None = None) -> set[int]:
    """Return the item numbers that are done: predicted by the batch's model (or the given one), or set aside."""
    version = batch.model_version if model_version is None else model_version
    with db.transaction() as connection:
        return set(connection.scalars(_done(batch, version)))


def close_batch(db: Database, batch: Batch, now: datetime) -> Batch:
    """Mark the batch complete and return it; closing again changes nothing.

    Raises IntegrityError while items are neither predicted nor set aside.
    """
    with db.transaction() as connection:
        connection.execute(select(batch_table.c.id).where(batch_table.c.id == batch.id).with_for_update())
        stored = _find(connection, batch.id)
        if stored is None:
            raise DataError(f"batch {batch.id!r} is unknown; open it first")
        done = _done(batch, stored.model_version).subquery()
        accounted = connection.execute(select(func.count()).select_from(done)).scalar_one()
        if accounted != stored.items:
            raise IntegrityError(f"batch {batch.id!r}: {accounted} of {stored.items} items are accounted for; score on")
        if stored.state == "open":
            closed_now = {"state": "closed", "closed_at": require_utc(now)}
            connection.execute(update(batch_table).where(batch_table.c.id == batch.id).values(closed_now))
        closed = _find(connection, batch.id)
    return closed or stored


def find_batch(db: Database, batch_id: str) -> Batch | None:
    """Return the batch called `batch_id`, or None."""
    with db.transaction() as connection:
        return _find(connection, batch_id)


def open_batches(db: Database, window: Window) -> int:
    """Return how many batches of the window are not complete yet."""
    asked = select(func.count()).where(*_inside(window), batch_table.c.state == "open")
    with db.transaction() as connection:
        return int(connection.execute(asked).scalar_one())


def segments(db: Database, window: Window) -> list[Segment]:
    """Return the window's segments by serving model, in the order they began; shadow rows are not counted."""
    first = func.min(batch_table.c.scored_at)
    asked = (
        select(
            batch_table.c.model_version,
            batch_table.c.class_list_id,
            func.sum(batch_table.c.rows).label("predictions"),
            first.label("first_at"),
            func.max(batch_table.c.scored_at).label("last_at"),
        )
        .where(*_inside(window), batch_table.c.rows > 0)
        .group_by(batch_table.c.model_version, batch_table.c.class_list_id)
        .order_by(first, batch_table.c.model_version)
    )
    with db.transaction() as connection:
        return [
            Segment(
                row.model_version,
                classes_of(connection, row.class_list_id),
                int(row.predictions),
                row.first_at,
                row.last_at,
                is_several(connection, row.class_list_id),
            )
            for row in connection.execute(asked).all()
        ]


def unseen(db: Database, files: Sequence[SeenFile]) -> list[SeenFile]:
    """Return the files that no batch has taken yet; one whose size or time changed counts as another file."""
    asked = text(
        "SELECT path, size, mtime_ns FROM seen_file WHERE (path, size, mtime_ns) IN"
        " (SELECT * FROM unnest(CAST(:paths AS text[]), CAST(:sizes AS bigint[]), CAST(:times AS bigint[])))"
    )
    values = {
        "paths": [clean_text(file.path) for file in files],
        "sizes": [file.size for file in files],
        "times": [file.mtime_ns for file in files],
    }
    with db.transaction() as connection:
        known = {tuple(row) for row in connection.execute(asked, values)}
    return [file for file in files if (clean_text(file.path), file.size, file.mtime_ns) not in known]


def mark_seen(store: Store, files: Iterable[SeenFile], *, batch_id: str, now: datetime) -> None:
    """Note that `batch_id` has taken these files."""
    waiting = iter(files)
    with within(store) as connection:
        while part := list(islice(waiting, _ROWS_A_STATEMENT)):
            values = [
                {
                    "path": clean_text(file.path),
                    "size": file.size,
                    "mtime_ns": file.mtime_ns,
                    "sha256": file.sha256,
                    "batch_id": batch_id,
                    "seen_at": require_utc(now),
                }
                for file in part
            ]
            connection.execute(insert(seen_file).values(values).on_conflict_do_nothing())


def _inside(window: Window) -> tuple[Any, Any]:
    return batch_table.c.scored_at >= window.start, batch_table.c.scored_at < window.end


def _done(batch: Batch, version: int) -> CompoundSelect[int]:
    """Select the numbers of the items predicted by `version` or set aside, each once."""
    predicted = select(prediction.c.item_no).where(
        prediction.c.month == batch.month,
        prediction.c.batch_number == batch.number,
        prediction.c.model_version == version,
    )
    aside = select(set_aside_table.c.item_no).where(set_aside_table.c.batch_number == batch.number)
    return predicted.union(aside)


def _find(connection: Connection, batch_id: str) -> Batch | None:
    row = connection.execute(select(batch_table).where(batch_table.c.id == batch_id)).one_or_none()
    return None if row is None else _batch_of(connection, row)


def _batch_of(connection: Connection, row: Row[Any]) -> Batch:
    return Batch(
        id=row.id,
        number=row.number,
        content_sha256=row.content_sha256,
        source=row.source,
        model_version=row.model_version,
        classes=classes_of(connection, row.class_list_id),
        items=row.items,
        scored_at=require_utc(row.scored_at),
        month=row.month,
        state=row.state,
        rows=row.rows,
        several=is_several(connection, row.class_list_id),
    )


def _check_model(connection: Connection, version: int, list_id: int) -> None:
    asked = select(model_table.c.class_list_id).where(model_table.c.version == version)
    known = connection.execute(asked).scalar_one_or_none()
    if known is None:
        raise ConfigurationError(f"model version {version} is not registered; register it before scoring with it")
    if known != list_id:
        raise ConfigurationError(f"model version {version} was trained on another class list than the batch names")
