"""Is a retraining worth it? A cheap question, answered from PostgreSQL before anything heavy is imported."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from components.alerts.message import refused_retraining_alert
from components.data.versions import latest_dataset
from components.errors import RefusedError
from components.monitoring.retraining import Cause, should_retrain
from components.operations.alerting import send
from components.operations.services import Services
from components.records import Decision, require_utc
from components.store import champions, labelling, ledger, requests

OUTCOMES = ("done", "refused", "failed", "unhelpful")


def ask_worth_it(
    services: Services, *, cause: Cause, reason: str, force: bool = False, actor: str, now: datetime
) -> Decision:
    """Return the decision to retrain; a refusal is written to the ledger and raised as RefusedError.

    force: a person insists; then only another retraining under way stands in the way.
    """
    decision = decide(services, cause=cause, force=force, now=now)
    if decision.action == "retrain":
        return decision
    ledger.record(
        services.database, kind="retrain", actor=actor, action=decision.action, reason=decision.reason,
        classes=decision.classes, evidence={**decision.evidence, "asked": reason}, now=now,
    )  # fmt: skip
    if cause not in ("manual", "forced"):
        send(services, refused_retraining_alert(decision), now=now)
    raise RefusedError(f"not retrained: {decision.reason}")


def decide(services: Services, *, cause: Cause, force: bool, now: datetime) -> Decision:
    """Return whether to retrain now, with the facts it was decided on; writes nothing."""
    database, now = services.database, require_utc(now)
    dataset = latest_dataset(services.workspace.root)
    if dataset is None:
        return Decision("refused", reason="there is no data yet; bring images in with `perennial ingest SOURCE`")
    current = champions.champion(database)
    if current is None and requests.last_attempt(database) is None:
        return Decision("retrain", reason="the first model", evidence={"dataset_version": dataset})
    last = requests.last_attempt(database)
    trained = champions.models(database)
    facts: dict[str, Any] = {
        "last_attempt": last.started_at if last else None,
        "last_outcome": last.state if last and last.state in OUTCOMES else None,
        "attempts_this_month": requests.attempts_since(database, _month_start(now)),
        "new_labels": labelling.new_settled_count(database),
        "new_labels_since_attempt": labelling.new_settled_count(database, since=last.started_at if last else None),
    }
    running = requests.current_request(database)
    return should_retrain(
        "forced" if force else cause,
        now=now,
        running=running is not None and running.lease_until is not None and running.lease_until > now,
        new_dataset=not trained or dataset != trained[0].dataset_version,
        rules=services.workspace.params.retrain,
        **facts,
    )


def _month_start(now: datetime) -> datetime:
    return now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
