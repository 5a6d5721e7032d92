"""The append-only ledger: every trigger, refusal, promotion, rejection, rollback and override, with its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, or_, select

from components.records import JsonObject, require_utc
from components.store.database import Database, Store, within
from components.store.tables import decision
from components.store.values import clean_text


def record(
    store: Store,
    *,
    kind: str,
    actor: str,
    action: str,
    reason: str,
    evidence: JsonObject,
    now: datetime,
    window: str | None = None,
    model_version: int | None = None,
    classes: Sequence[str] = (),
) -> int:
    """Add one row and return its number. On a connection it commits or vanishes with the caller's transaction."""
    row = {
        "at": require_utc(now),
        "kind": kind,
        "actor": clean_text(actor),
        "action": action,
        "reason": clean_text(reason),
        "evidence": dict(evidence),
        "window_name": window,
        "model_version": model_version,
        "classes": [clean_text(name) for name in classes],
    }
    with within(store) as connection:
        return int(connection.execute(insert(decision).values(row).returning(decision.c.id)).scalar_one())


def history(db: Database, limit: int, kind: str | None = None, window: str | None = None) -> list[dict[str, Any]]:
    """Return the newest rows (of a kind, about a window), newest first; their window and model version may be None."""
    asked = select(decision).order_by(decision.c.id.desc()).limit(limit)
    if kind is not None:
        asked = asked.where(decision.c.kind == kind)
    if window is not None:
        asked = asked.where(decision.c.window_name == window)
    with db.transaction() as connection:
        rows = connection.execute(asked).mappings().all()
    return [{"window" if key == "window_name" else key: value for key, value in row.items()} for row in rows]


def recorded_versions(db: Database, kind: str) -> set[str]:
    """Return the dataset versions that rows of a kind are about."""
    named = decision.c.evidence["dataset_version"].astext
    with db.transaction() as connection:
        return set(connection.scalars(select(named).where(decision.c.kind == kind, named.is_not(None))))


def last_asked(db: Database, cause: str) -> datetime | None:
    """Return when a retraining for `cause` was last asked for, as far as the ledger has it; None if never."""
    asked = select(func.max(decision.c.at)).where(
        or_(
            decision.c.evidence.contains({"cause": cause}),
            decision.c.evidence.contains({"causes": {cause: {"due": True}}}),
        ),
        decision.c.kind.in_(("retrain", "ask")),
    )
    with db.transaction() as connection:
        found: datetime | None = connection.execute(asked).scalar_one()
    return found
