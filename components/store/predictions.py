"""Writing predictions exactly once, and finding them again."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import psycopg2.errors
from sqlalchemy import Connection, select, text, update
from sqlalchemy.dialects.postgresql import insert

from components.errors import BusyError, ConflictError, DataError, IntegrityError
from components.records import ScoredChunk
from components.store.class_lists import classes_of, is_several
from components.store.database import Database, copy_in
from components.store.scored.batches import (
    Batch,
    SeenFile,
    Segment,
    close_batch,
    ensure_partition,
    find_batch,
    mark_seen,
    open_batch,
    open_batches,
    segments,
    unseen,
    write_set_aside,
    written,
)
from components.store.scored.chunks import COPIED_COLUMNS, check_chunk, encode, uniform_of, uniforms_of
from components.store.scored.label_chunks import check_labels, write_labels
from components.store.tables import batch as batch_table
from components.store.tables import image_shard, prediction
from components.store.tables import model_version as model_table

__all__ = [
    "Batch",
    "ImagePlace",
    "SeenFile",
    "Segment",
    "close_batch",
    "ensure_partition",
    "find_batch",
    "locate_images",
    "locate_tasks",
    "mark_seen",
    "open_batch",
    "open_batches",
    "segments",
    "uniform_of",
    "uniforms_of",
    "unseen",
    "write_chunk",
    "write_set_aside",
    "written",
]

_COPY = "COPY prediction (" + ", ".join(COPIED_COLUMNS) + ") FROM STDIN (FORMAT binary)"
_TRIES = 5


@dataclass(frozen=True, slots=True)
class ImagePlace:
    """Where the image store keeps the pixels of one prediction."""

    image_id: str
    shard: str
    row: int
    scored_at: datetime


def write_chunk(
    db: Database, batch: Batch, chunk: ScoredChunk, shadow: bool = False, *, model_version: int | None = None
) -> int:
    """Store one chunk, whole or not at all, and return how many of its rows were new; 0 for a repeated delivery.

    shadow: the rows are a challenger's, `model_version`, and belong to no population.
    Raises DataError if the arrays disagree or leave their domains, ConflictError for new rows in a closed batch.
    """
    version = batch.model_version if model_version is None else model_version
    if shadow == (version == batch.model_version):
        raise DataError(f"batch {batch.id!r}: model {version} and shadow={shadow} contradict each other")
    classes, several = (batch.classes, batch.several) if not shadow else _classes_of_model(db, version)
    check_chunk(chunk, items=batch.items, classes=len(classes))
    check_labels(chunk, several=several)
    if not len(chunk.item_no):
        return 0
    for _ in range(_TRIES):
        try:
            return _write_missing(db, batch, chunk, version, shadow)
        except (psycopg2.errors.UniqueViolation, psycopg2.errors.DeadlockDetected):
            continue  # a parallel delivery wrote some of these rows since we looked; look again
    raise BusyError(f"batch {batch.id!r}: other deliveries of the same rows are in the way; score it again")


def _write_missing(db: Database, batch: Batch, chunk: ScoredChunk, version: int, shadow: bool) -> int:
    """Copy in the rows that are not there yet; a plain COPY is several times as fast as a merge."""
    import numpy as np

    with db.transaction() as connection:
        # Not waited for: what a dying server loses is missing and is scored again, and the batch's close, which
        # is waited for, puts everything before it on disk too.
        connection.execute(text("SET LOCAL synchronous_commit = off"))
        there = select(prediction.c.item_no).where(
            prediction.c.month == batch.month,
            prediction.c.batch_number == batch.number,
            prediction.c.model_version == version,
            prediction.c.item_no.between(int(chunk.item_no.min()), int(chunk.item_no.max())),
        )
        missing = np.flatnonzero(~np.isin(chunk.item_no, np.array(list(connection.scalars(there)), np.int64)))
        if not len(missing):
            return 0
        constants = {
            "month": batch.month,
            "batch_number": batch.number,
            "model_version": version,
            "shadow": shadow,
            "shard_id": _shard_id(connection, chunk.shard),
        }
        new = copy_in(connection, _COPY, io.BytesIO(encode(chunk, batch.id, constants, missing)))
        if new != len(missing):
            raise IntegrityError(f"batch {batch.id!r}: PostgreSQL took {new} of {len(missing)} rows; none was kept")
        if not shadow:
            _count(connection, batch, new)
        if chunk.positive is not None:
            write_labels(connection, chunk, batch.id, constants, missing)
        return new


def locate_images(db: Database, image_ids: Sequence[str], *, months: Iterable[date] = ()) -> dict[str, ImagePlace]:
    """Return where the newest stored copy of each known image lies; reads whole months (all, where none is given)."""
    asked = text(
        "SELECT DISTINCT ON (p.image_id) p.image_id, s.name, p.shard_row, b.scored_at"
        " FROM prediction p JOIN image_shard s ON s.id = p.shard_id JOIN batch b ON b.number = p.batch_number"
        " WHERE p.image_id = ANY(:ids) AND (:any_month OR p.month = ANY(CAST(:months AS date[])))"
        " ORDER BY p.image_id, b.scored_at DESC, p.item_no"
    )
    wanted = [month.replace(day=1) for month in months]
    values = {"ids": list(image_ids), "months": wanted, "any_month": not wanted}
    with db.transaction() as connection:
        return {row[0]: ImagePlace(*row) for row in connection.execute(asked, values)}


def locate_tasks(db: Database, task_ids: Sequence[int]) -> dict[int, ImagePlace]:
    """Return where the image of each known label task lies."""
    asked = text(
        "SELECT t.id, t.image_id, s.name, t.shard_row, b.scored_at"
        " FROM label_task t JOIN image_shard s ON s.id = t.shard_id JOIN batch b ON b.number = t.batch_number"
        " WHERE t.id = ANY(:ids)"
    )
    with db.transaction() as connection:
        return {row[0]: ImagePlace(*row[1:]) for row in connection.execute(asked, {"ids": list(task_ids)})}


def _shard_id(connection: Connection, name: str) -> int:
    added = insert(image_shard).values(name=name).on_conflict_do_nothing().returning(image_shard.c.id)
    number = connection.execute(added).scalar_one_or_none()
    if number is None:
        number = connection.execute(select(image_shard.c.id).where(image_shard.c.name == name)).scalar_one()
    return int(number)


def _count(connection: Connection, batch: Batch, new: int) -> None:
    # The batch's row is locked here, so that a draw, which reads closed batches only, never sees a moving one.
    change = (
        update(batch_table)
        .where(batch_table.c.number == batch.number, batch_table.c.state == "open")
        .values(rows=batch_table.c.rows + new)
    )
    if connection.execute(change).rowcount != 1:
        raise ConflictError(f"batch {batch.id!r} is closed; {new} further rows are refused")


def _classes_of_model(db: Database, version: int) -> tuple[tuple[str, ...], bool]:
    asked = select(model_table.c.class_list_id).where(model_table.c.version == version)
    with db.transaction() as connection:
        number = connection.execute(asked).scalar_one_or_none()
        if number is None:
            raise DataError(f"model version {version} is not registered; register it before scoring with it")
        return classes_of(connection, number), is_several(connection, number)
