"""Who serves: promote, reject, roll back. The row in PostgreSQL decides; MLflow's alias mirrors it."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from components.alerts.message import promotion_alert
from components.errors import RefusedError
from components.operations.alerting import open_alerts, send
from components.operations.monitoring.carried_reference import carry_reference
from components.operations.monitoring.drift_reference import freeze_drift_reference
from components.operations.services import Services
from components.records import GateVerdict
from components.store import alerts_log, champions, ledger

logger = logging.getLogger(__name__)


def promote(
    services: Services, version: int, *, actor: str, reason: str, override: bool = False, now: datetime
) -> dict[str, Any]:
    """Make `version` the champion and mirror it in MLflow; return the version and the one before.

    Raises RefusedError for a version its gate refused or a person rejected, unless `override`; ConflictError where
    somebody else changed the champion meanwhile.
    """
    database = services.database
    candidate = champions.model(database, version)
    verdict = candidate.metrics.get("verdict", {})
    if not override and (candidate.state == "rejected" or not verdict.get("passed", False)):
        why = (
            "it was rejected"
            if candidate.state == "rejected"
            else f"its gate refused: {verdict.get('reason', 'not judged')}"
        )
        raise RefusedError(f"version {version} cannot be promoted: {why}. --override with a --reason is recorded")
    current = champions.champion(database)
    if current is not None and current.version == version:
        repair_alias(services)
        return {"version": version, "previous": version, "changed": False}
    carry_reference(services, current, candidate, now=now)
    # Before the pointer: a champion without a drift reference would be watched by nothing.
    freeze_drift_reference(services, candidate, now=now)
    champions.compare_and_set(
        database, expected=current.version if current else None, new=version, now=now, actor=actor,
        reason=reason, evidence={"verdict": verdict, "override": override},
    )  # fmt: skip
    repair_alias(services)
    for refused in open_alerts(services, "kept-champion/"):  # ended by this news, with no word of their own
        alerts_log.recover_alert(database, refused["key"], now)
    told = GateVerdict.from_json(verdict)
    send(services, promotion_alert(current.version if current else None, version, told), now=now)
    return {"version": version, "previous": current.version if current else None, "changed": True}


def reject(services: Services, version: int, *, actor: str, reason: str, now: datetime) -> dict[str, Any]:
    """Mark a candidate as rejected. Raises ConflictError for the champion: roll back instead."""
    with services.database.transaction() as connection:
        champions.set_state(connection, version, "rejected")
        ledger.record(
            connection, kind="champion", actor=actor, action="reject", reason=reason, evidence={}, now=now,
            model_version=version,
        )  # fmt: skip
    return {"version": version, "state": "rejected"}


def rollback(services: Services, *, actor: str, reason: str, now: datetime) -> dict[str, Any]:
    """Make the champion before this one the champion again. Raises RefusedError where there was none."""
    current = champions.champion(services.database)
    previous = champions.previous(services.database)
    if current is None or previous is None:
        raise RefusedError("there is no previous champion to roll back to")
    carry_reference(services, current, previous, now=now)
    champions.compare_and_set(
        services.database, expected=current.version, new=previous.version, now=now, actor=actor,
        reason=reason, evidence={}, action="rollback",
    )  # fmt: skip
    repair_alias(services)
    return {"version": previous.version, "previous": current.version}


def repair_alias(services: Services) -> None:
    """Write MLflow's alias after the pointer. Called again by every later promotion and by `doctor`."""
    current, previous = champions.champion(services.database), champions.previous(services.database)
    services.registry.set_champion_alias(current.version if current else None, previous.version if previous else None)
