"""Accuracy estimates per class, every version kept: later labels change them, and the change stays visible."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, insert, select, text

from components.records import JsonObject, Window, require_utc
from components.store.database import Database, Store, within
from components.store.tables import ESTIMATED_RATES, accuracy_estimate, estimate_version
from components.store.values import clean_text, jsonable


def save_estimates(
    store: Store,
    window: Window,
    model_version: int,
    classes: Sequence[JsonObject],
    *,
    now: datetime,
    overall: JsonObject | None = None,
) -> int:
    """Keep the classes' estimates, as `ClassAccuracy.as_json` gives them, and return their version number.

    Estimates that equal the newest version's make no new one.
    """
    wanted = [_estimate_row(number, found) for number, found in enumerate(classes)]
    summary = dict(overall or {})
    with within(store) as connection:
        name = f"estimates {window.name} {model_version}"
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name})
        newest = connection.execute(_newest_version(window, model_version)).one_or_none()
        if newest is not None:
            asked = select(accuracy_estimate).where(accuracy_estimate.c.estimate_id == newest.id)
            rows = connection.execute(asked.order_by(accuracy_estimate.c.class_no)).mappings()
            stored = [{key: value for key, value in row.items() if key != "estimate_id"} for row in rows]
            if stored == wanted and newest.overall == jsonable(summary):
                return int(newest.version)
        version = 1 if newest is None else newest.version + 1
        head = {
            "window_name": window.name,
            "model_version": model_version,
            "version": version,
            "computed_at": require_utc(now),
            "overall": summary,
        }
        made = insert(estimate_version).values(head).returning(estimate_version.c.id)
        estimate_id = connection.execute(made).scalar_one()
        if wanted:
            connection.execute(insert(accuracy_estimate), [{**row, "estimate_id": estimate_id} for row in wanted])
    return int(version)


def estimates(db: Database, window: Window, model_version: int) -> list[dict[str, Any]]:
    """Return the newest estimates of a segment in the form they were saved in, class by class; [] before the first."""
    with db.transaction() as connection:
        newest = connection.execute(_newest_version(window, model_version)).one_or_none()
        if newest is None:
            return []
        asked = select(accuracy_estimate).where(accuracy_estimate.c.estimate_id == newest.id)
        rows = connection.execute(asked.order_by(accuracy_estimate.c.class_no)).all()
    return [_estimate_json(row) for row in rows]


def _newest_version(window: Window, model_version: int) -> Any:
    return (
        select(estimate_version)
        .where(estimate_version.c.window_name == window.name, estimate_version.c.model_version == model_version)
        .order_by(estimate_version.c.version.desc())
        .limit(1)
    )


def _estimate_row(number: int, found: JsonObject) -> dict[str, Any]:
    row: dict[str, Any] = {"class_no": number, "name": clean_text(found["name"]), "predicted": found["predicted"]}
    row["labels"] = found["labels"]
    for rate in ESTIMATED_RATES:
        known = found.get(rate)
        row |= {f"{rate}_{part}": jsonable(known[part]) if known else None for part in ("value", "low", "high")}
    return {**row, "state": str(found["state"]), "reasons": [clean_text(reason) for reason in found["reasons"]]}


def _estimate_json(row: Row[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"name": row.name, "predicted": row.predicted, "labels": row.labels}
    for rate in ESTIMATED_RATES:
        parts = {part: getattr(row, f"{rate}_{part}") for part in ("value", "low", "high")}
        found[rate] = None if parts["value"] is None else parts
    return {**found, "state": row.state, "reasons": list(row.reasons)}
