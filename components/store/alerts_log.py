"""Alerts as people got them: one open alert a key, counted instead of repeated."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, literal_column, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningInsert

from components.records import require_utc
from components.store.database import Database, Store, within
from components.store.tables import alert
from components.store.values import clean_text


def record_alert(store: Store, key: str, *, level: str, title: str, body: str, now: datetime) -> bool:
    """Return whether the alert is new and worth sending; an open one of the same key is only counted and updated."""
    now = require_utc(now)
    row = {
        "key": key,
        "level": level,
        "title": clean_text(title),
        "body": clean_text(body),
        "state": "open",
        "opened_at": now,
        "last_seen_at": now,
        "times": 1,
    }
    added = insert(alert).values(row)
    statement: ReturningInsert[tuple[bool]] = added.on_conflict_do_update(
        index_elements=[alert.c.key],
        index_where=text("state = 'open'"),
        set_={
            "last_seen_at": now,
            "times": alert.c.times + 1,
            "level": added.excluded.level,
            "title": added.excluded.title,
            "body": added.excluded.body,
        },
    ).returning(literal_column("times = 1", Boolean))
    with within(store) as connection:
        return bool(connection.execute(statement).scalar_one())


def recover_alert(store: Store, key: str, now: datetime) -> bool:
    """Close the open alert of this key; return whether there was one, and so whether to send a recovered message."""
    change = (
        update(alert)
        .where(alert.c.key == key, alert.c.state == "open")
        .values(state="recovered", recovered_at=require_utc(now))
    )
    with within(store) as connection:
        return connection.execute(change).rowcount > 0


def recent_alerts(db: Database, limit: int) -> list[dict[str, Any]]:
    """Return the newest alerts, newest first, one dict a row with every column."""
    with db.transaction() as connection:
        rows = connection.execute(select(alert).order_by(alert.c.id.desc()).limit(limit)).mappings().all()
    return [dict(row) for row in rows]
