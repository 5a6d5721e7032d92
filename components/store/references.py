"""What production is compared with: the service's reference accuracy, and each model's drift reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.dialects import postgresql

from components.records import JsonObject, Window, require_utc
from components.store.database import Database, Store, within
from components.store.draws.spans import span_of
from components.store.tables import class_list
from components.store.tables import drift_reference as drift_reference_table
from components.store.tables import reference_level as reference_table
from components.store.values import clean_text


@dataclass(frozen=True, slots=True)
class Reference:
    """The service's reference accuracy: what was measured in which window, and who made it the reference."""

    window: str
    model_version: int
    classes: tuple[str, ...]
    level: JsonObject
    set_at: datetime
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class DriftReference:
    """What a model's inputs and outputs looked like in `window`, the one it was promoted on."""

    window: str
    payload: JsonObject
    set_at: datetime


def reference_level(
    db: Database, classes: Sequence[str] | None = None, *, several: bool | None = None
) -> Reference | None:
    """Return the newest reference of a class list (None: the newest of all), or None before the first.

    several: only of lists whose images carry several labels, or only of others (None: of both).
    """
    asked = (
        select(reference_table, class_list.c.classes)
        .join(class_list, class_list.c.id == reference_table.c.class_list_id)
        .order_by(reference_table.c.id.desc())
        .limit(1)
    )
    if classes is not None:
        asked = asked.where(class_list.c.classes == list(classes))
    if several is not None:
        asked = asked.where(class_list.c.several == several)
    with db.transaction() as connection:
        row = connection.execute(asked).one_or_none()
    if row is None:
        return None
    return Reference(
        window=row.window_name,
        model_version=row.model_version,
        classes=tuple(row.classes),
        level=row.payload,
        set_at=row.set_at,
        actor=row.actor,
        reason=row.reason,
    )


def set_reference_level(
    store: Store,
    window: Window,
    model_version: int,
    level: Mapping[str, Any],
    *,
    reason: str,
    now: datetime,
    actor: str = "monitor",
) -> None:
    """Make `level` the reference of the model's class list from now on; earlier ones are kept."""
    with within(store) as connection:
        span = span_of(connection, window, model_version)
        row = {
            "class_list_id": span.class_list,
            "window_name": window.name,
            "model_version": model_version,
            "payload": dict(level),
            "set_at": require_utc(now),
            "actor": clean_text(actor),
            "reason": clean_text(reason),
        }
        connection.execute(insert(reference_table).values(row))


def drift_reference(db: Database, model_version: int) -> DriftReference | None:
    """Return the model's frozen drift reference, or None."""
    asked = select(drift_reference_table).where(drift_reference_table.c.model_version == model_version)
    with db.transaction() as connection:
        row = connection.execute(asked).one_or_none()
    return None if row is None else DriftReference(row.window_name, row.payload, row.set_at)


def set_drift_reference(
    store: Store, model_version: int, window: str, payload: Mapping[str, Any], *, now: datetime
) -> bool:
    """Freeze the model's drift reference; False if it has one already, which then stays."""
    row = {
        "model_version": model_version,
        "window_name": window,
        "payload": dict(payload),
        "set_at": require_utc(now),
    }
    # Frozen: a sliding reference would absorb slow drift.
    statement = postgresql.insert(drift_reference_table).values(row).on_conflict_do_nothing()
    with within(store) as connection:
        return connection.execute(statement).rowcount == 1
