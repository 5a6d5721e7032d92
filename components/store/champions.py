"""Registered models, and which of them serves: one pointer, changed by compare-and-set."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, select, update
from sqlalchemy.dialects.postgresql import insert

from components.errors import ConfigurationError, ConflictError
from components.records import JsonObject, ModelVersion, require_utc
from components.store import ledger
from components.store.class_lists import class_list_id
from components.store.database import Database, Store, within
from components.store.tables import champion as champion_table
from components.store.tables import class_list, decision
from components.store.tables import model_version as model_table

KIND = "champion"
_MOVED = decision.c.evidence.has_key("previous_version")  # a rejection is of this kind too, and moves nothing


def register_model(store: Store, model: ModelVersion) -> None:
    """Store a model under its registry version; the same model again changes nothing.

    Raises ConflictError if the version is taken by another artifact.
    """
    with within(store) as connection:
        row = {
            "version": model.version,
            "run_id": model.run_id,
            "dataset_version": model.dataset_version,
            "git_commit": model.git_commit,
            "class_list_id": class_list_id(connection, model.classes, model.created_at, several=model.several),
            "artifact_sha256": model.artifact_sha256,
            "preprocess_sha256": model.preprocess_sha256,
            "state": "candidate",
            "created_at": require_utc(model.created_at),
            "metrics": dict(model.metrics),
        }
        connection.execute(insert(model_table).values(row).on_conflict_do_nothing())
        stored = _model(connection, model.version)
    if stored.artifact_sha256 != model.artifact_sha256:
        raise ConflictError(
            f"model version {model.version} is registered with artifact {stored.artifact_sha256[:12]}…, "
            f"not {model.artifact_sha256[:12]}…; register under a new version"
        )


def model(store: Store, version: int) -> ModelVersion:
    """Return the model registered as `version`. Raises ConfigurationError if there is none."""
    with within(store) as connection:
        return _model(connection, version)


def models(db: Database) -> list[ModelVersion]:
    """Return every registered model, newest version first."""
    with db.transaction() as connection:
        return [_record(row) for row in connection.execute(_asked().order_by(model_table.c.version.desc()))]


def champion(store: Store) -> ModelVersion | None:
    """Return the serving model, or None before the first promotion."""
    with within(store) as connection:
        row = connection.execute(_asked().join(champion_table, champion_table.c.version == model_table.c.version))
        found = row.one_or_none()
    return None if found is None else _record(found)


def compare_and_set(
    store: Store,
    *,
    expected: int | None,
    new: int,
    now: datetime,
    actor: str,
    reason: str,
    evidence: JsonObject,
    action: str = "promote",
) -> None:
    """Make `new` the champion if `expected` still is; pointer, states and ledger row change together.

    The old champion becomes `previous`, the one before it `retired`. Raises ConflictError for the loser of a race,
    ConfigurationError for an unknown version.
    """
    with within(store) as connection:
        target = _model(connection, new)
        actual = _lock_pointer(connection, first=new if expected is None else None, now=now)
        if actual != expected or target.version == expected:
            raise ConflictError(
                f"version {new} was not promoted: the champion is {_named(actual)}, not {_named(expected)}; "
                "look at it and decide again"
            )
        change = update(model_table)
        connection.execute(change.where(model_table.c.state == "previous").values(state="retired"))
        if expected is not None:
            connection.execute(update(champion_table).values(version=new, since=require_utc(now)))
            connection.execute(change.where(model_table.c.version == expected).values(state="previous"))
        connection.execute(change.where(model_table.c.version == new).values(state="champion"))
        ledger.record(
            connection,
            kind=KIND,
            actor=actor,
            action=action,
            reason=reason,
            evidence={**evidence, "previous_version": expected},
            now=now,
            model_version=new,
        )


def set_state(store: Store, version: int, state: str) -> None:
    """Set a model's state to `candidate`, `retired` or `rejected`; only `compare_and_set` makes champions.

    Raises ConflictError for the serving model, ConfigurationError for an unknown version or state.
    """
    if state not in {"candidate", "retired", "rejected"}:
        raise ConfigurationError(f"state {state!r} cannot be set by hand; one of candidate, retired, rejected")
    change = update(model_table).where(model_table.c.version == version, model_table.c.state != "champion")
    with within(store) as connection:
        if connection.execute(change.values(state=state)).rowcount == 0:
            current = _model(connection, version)
            raise ConflictError(f"model version {version} is {current.state}; promote another one first")


def add_metrics(store: Store, version: int, metrics: JsonObject) -> None:
    """Add entries, such as the gate's verdict, to a model's metrics. Raises ConfigurationError if it is unknown."""
    with within(store) as connection:
        known = _model(connection, version)
        merged = {**known.metrics, **metrics}
        connection.execute(update(model_table).where(model_table.c.version == version).values(metrics=merged))


def previous(store: Store) -> ModelVersion | None:
    """Return the model that served before the champion, or None."""
    with within(store) as connection:
        found = connection.execute(_asked().where(model_table.c.state == "previous")).one_or_none()
    return None if found is None else _record(found)


def champion_history(db: Database) -> list[dict[str, Any]]:
    """Return every change of champion, newest first: version, previous, since, action, actor, reason, evidence."""
    asked = select(decision).where(decision.c.kind == KIND, _MOVED).order_by(decision.c.id.desc())
    with db.transaction() as connection:
        rows = connection.execute(asked).all()
    return [
        {
            "version": row.model_version,
            "previous": row.evidence.get("previous_version"),
            "since": row.at,
            "action": row.action,
            "actor": row.actor,
            "reason": row.reason,
            "evidence": row.evidence,
        }
        for row in rows
    ]


def _lock_pointer(connection: Connection, *, first: int | None, now: datetime) -> int | None:
    """Return the champion's version and hold its row; None means the row was just made for `first`."""
    if first is not None:
        row = {"only_row": True, "version": first, "since": require_utc(now)}
        if connection.execute(insert(champion_table).values(row).on_conflict_do_nothing()).rowcount == 1:
            return None
    return connection.execute(select(champion_table.c.version).with_for_update()).scalar_one_or_none()


def _asked() -> Select[Any]:
    asked = select(model_table, class_list.c.classes, class_list.c.several)
    return asked.join(class_list, class_list.c.id == model_table.c.class_list_id)


def _model(connection: Connection, version: int) -> ModelVersion:
    row = connection.execute(_asked().where(model_table.c.version == version)).one_or_none()
    if row is None:
        known = connection.scalars(select(model_table.c.version).order_by(model_table.c.version)).all()
        raise ConfigurationError(f"model version {version} is unknown; known: {', '.join(map(str, known)) or 'none'}")
    return _record(row)


def _record(row: Row[Any]) -> ModelVersion:
    return ModelVersion(
        version=row.version,
        run_id=row.run_id,
        dataset_version=row.dataset_version,
        git_commit=row.git_commit,
        classes=tuple(row.classes),
        artifact_sha256=row.artifact_sha256,
        preprocess_sha256=row.preprocess_sha256,
        state=row.state,
        created_at=row.created_at,
        metrics=row.metrics,
        several=row.several,
    )


def _named(version: int | None) -> str:
    return "none" if version is None else f"version {version}"
