"""Wishes for a retraining: one unfinished at a time, claimed under a lease that dies with its worker.

Leases run on the database server's clock, the one that all workers share; every other moment is the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Row, and_, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from components.errors import ConflictError, IntegrityError
from components.records import JsonObject, require_utc
from components.store.database import Database, Store, within
from components.store.tables import retrain_request
from components.store.values import clean_text

Outcome = Literal["done", "refused", "failed", "unhelpful"]

_UNFINISHED = retrain_request.c.state.in_(("open", "claimed"))
_LEASED = func.coalesce(retrain_request.c.lease_until > func.clock_timestamp(), False).label("leased")
_BEGUN = (retrain_request.c.started_at.is_not(None), retrain_request.c.state != "refused")
_TRIES = 5


@dataclass(frozen=True, slots=True)
class RetrainRequest:
    """One row. `attempts` counts the claims; `started_at` is the newest.

    leased: whether its worker's lease still ran when the row was read.
    """

    id: int
    reason: str
    classes: tuple[str, ...]
    window: str | None
    model_version: int | None
    evidence: JsonObject
    state: str
    opened_at: datetime
    claimed_by: str | None
    started_at: datetime | None
    lease_until: datetime | None
    leased: bool
    attempts: int
    finished_at: datetime | None
    detail: str | None

    @property
    def interrupted(self) -> bool:
        """Return whether a worker began it and died, or lost sight of the database, before its end."""
        return self.state == "claimed" and not self.leased


def open_request(
    store: Store,
    *,
    reason: str,
    classes: Sequence[str],
    window: str | None,
    now: datetime,
    evidence: JsonObject,
    model_version: int | None = None,
    cause: str | None = None,
) -> tuple[int, bool]:
    """Return (number, True) of a new request, or (number, False) of one that is there already.

    There already is: any unfinished request; and, where window and model are given, the one this segment ever made,
    finished or not. cause: kept in the evidence. On a connection it commits or vanishes with the caller's transaction.
    """
    row = {
        "reason": clean_text(reason),
        "classes": [clean_text(name) for name in classes],
        "window_name": window,
        "model_version": model_version,
        "evidence": {**evidence, **({} if cause is None else {"cause": cause})},
        "state": "open",
        "opened_at": require_utc(now),
        "attempts": 0,
    }
    statement = insert(retrain_request).values(row).on_conflict_do_nothing().returning(retrain_request.c.id)
    same = and_(retrain_request.c.window_name == window, retrain_request.c.model_version == model_version)
    there = select(retrain_request.c.id).where(or_(_UNFINISHED, same)).order_by(same.desc()).limit(1)
    with within(store) as connection:
        for _ in range(_TRIES):
            made = connection.execute(statement).scalar_one_or_none()
            if made is not None:
                return int(made), True
            # The other one may have been finished since the insert looked; then ours is welcome after all.
            found = connection.execute(there).scalar_one_or_none()
            if found is not None:
                return int(found), False
    raise IntegrityError("retraining requests come and go faster than one can be opened; try again")


def sharpen_request(
    store: Store, request_id: int, *, reason: str, classes: Sequence[str], window: str, evidence: JsonObject
) -> bool:
    """Make a request that nobody has begun, and that no alarm opened, one about the `classes` that fell in `window`.

    So the retraining that is coming anyway is judged by what alarmed. False where it is begun, or is about an alarm.
    """
    waiting = (retrain_request.c.id == request_id, retrain_request.c.state == "open")
    other = retrain_request.c.evidence["cause"].as_string() != "accuracy"
    with within(store) as connection:
        before = connection.execute(select(retrain_request).where(*waiting, other).with_for_update()).one_or_none()
        if before is None:
            return False
        values = {
            "reason": clean_text(reason),
            "classes": [clean_text(name) for name in classes],
            "window_name": window,
            "model_version": None,  # no longer that of a segment, of which each may have made one request only
            "evidence": {**evidence, "opened_for": before.evidence.get("cause")},
        }
        connection.execute(update(retrain_request).where(retrain_request.c.id == request_id).values(values))
    return True


def claim_request(db: Database, now: datetime, lease_seconds: float, worker: str) -> RetrainRequest | None:
    """Return the request this worker may now serve, or None. One whose lease ran out is given again."""
    free = or_(retrain_request.c.state == "open", ~_LEASED.element)
    chosen = select(retrain_request.c.id).where(_UNFINISHED, free).limit(1).with_for_update(skip_locked=True)
    change = (
        update(retrain_request)
        .where(retrain_request.c.id == chosen.scalar_subquery())
        .values(
            state="claimed",
            claimed_by=worker,
            started_at=require_utc(now),
            lease_until=_from_now(lease_seconds),
            attempts=retrain_request.c.attempts + 1,
        )
        .returning(retrain_request, _LEASED)
    )
    with db.transaction() as connection:
        row = connection.execute(change).one_or_none()
    return None if row is None else _record(row)


def renew_lease(db: Database, request_id: int, lease_seconds: float, worker: str) -> bool:
    """Prolong this worker's claim; False means that another has it, or that it is finished: stop working."""
    change = update(retrain_request).where(*_held_by(request_id, worker)).values(lease_until=_from_now(lease_seconds))
    with db.transaction() as connection:
        return connection.execute(change).rowcount == 1


def finish_request(
    store: Store, request_id: int, outcome: Outcome, detail: str, now: datetime, *, worker: str | None = None
) -> None:
    """Close a request with its outcome. Raises ConflictError if it is closed, or claimed by another than `worker`."""
    mine = _held_by(request_id, worker) if worker is not None else (retrain_request.c.id == request_id, _UNFINISHED)
    change = (
        update(retrain_request)
        .where(*mine)
        .values(state=outcome, detail=clean_text(detail), finished_at=require_utc(now), lease_until=None)
    )
    with within(store) as connection:
        if connection.execute(change).rowcount == 0:
            raise ConflictError(
                f"retraining request {request_id} {_whereabouts(connection, request_id)}; left as it is"
            )


def current_request(db: Database) -> RetrainRequest | None:
    """Return the unfinished request, or None."""
    return _one(db, select(retrain_request, _LEASED).where(_UNFINISHED))


def find_request(db: Database, request_id: int) -> RetrainRequest | None:
    """Return a request by its number, or None."""
    return _one(db, select(retrain_request, _LEASED).where(retrain_request.c.id == request_id))


def segment_request(db: Database, window: str, model_version: int) -> int | None:
    """Return the number of the request that this model's window has ever made on its own, or None."""
    same = (retrain_request.c.window_name == window, retrain_request.c.model_version == model_version)
    with db.transaction() as connection:
        return connection.execute(select(retrain_request.c.id).where(*same)).scalar_one_or_none()


def last_attempt(db: Database) -> RetrainRequest | None:
    """Return the request whose work began last, whatever came of it; refused ones never began."""
    begun = select(retrain_request, _LEASED).where(*_BEGUN).order_by(retrain_request.c.started_at.desc()).limit(1)
    return _one(db, begun)


def attempts_since(db: Database, moment: datetime) -> int:
    """Return how many requests began work at or after `moment`; failed and unhelpful ones count, refused ones not."""
    asked = select(func.count()).where(*_BEGUN, retrain_request.c.started_at >= require_utc(moment))
    with db.transaction() as connection:
        return int(connection.execute(asked).scalar_one())


def _from_now(seconds: float) -> ColumnElement[datetime]:
    return func.clock_timestamp() + timedelta(seconds=seconds)


def _held_by(request_id: int, worker: str) -> tuple[Any, ...]:
    return (
        retrain_request.c.id == request_id,
        retrain_request.c.state == "claimed",
        retrain_request.c.claimed_by == worker,
    )


def _one(db: Database, asked: Any) -> RetrainRequest | None:
    with db.transaction() as connection:
        row = connection.execute(asked).one_or_none()
    return None if row is None else _record(row)


def _whereabouts(connection: Connection, request_id: int) -> str:
    asked = select(retrain_request.c.state, retrain_request.c.claimed_by).where(retrain_request.c.id == request_id)
    row = connection.execute(asked).one_or_none()
    if row is None:
        return "does not exist"
    return f"is {row.state}" + (f" by {row.claimed_by}" if row.claimed_by else "")


def _record(row: Row[Any]) -> RetrainRequest:
    return RetrainRequest(
        id=row.id,
        reason=row.reason,
        classes=tuple(row.classes),
        window=row.window_name,
        model_version=row.model_version,
        evidence=row.evidence,
        state=row.state,
        opened_at=row.opened_at,
        claimed_by=row.claimed_by,
        started_at=row.started_at,
        lease_until=row.lease_until,
        leased=row.leased,
        attempts=row.attempts,
        finished_at=row.finished_at,
        detail=row.detail,
    )
