"""Is a retraining worth it? A cheap question, answered from PostgreSQL before anything heavy is imported."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from components.alerts.message import refused_retraining_alert
from components.data.versioning.versions import latest_dataset
from components.errors import RefusedError
from components.monitoring.retraining import Cause, should_retrain
from components.operations.alerting import send
from components.operations.services import Services
from components.records import Decision, require_utc
from components.store import champions, labelling, ledger, requests

OUTCOMES = ("done", "refused", "failed", "unhelpful")
MOST_ATTEMPTS = 3
"""How often a request is begun whose process dies each time: what kills it would kill it again."""


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
    """Return whether to retrain now, with the facts it was decided on; writes nothing.

    What was worth beginning is worth ending: a request whose process died goes on, whatever came or did not come since.
    """
    database, now = services.database, require_utc(now)
    current_request = requests.current_request(database)
    if current_request is not None and current_request.interrupted and current_request.attempts < MOST_ATTEMPTS:
        return Decision(
            "retrain", current_request.classes, f"request {current_request.id} was interrupted and goes on",
            evidence={"request": current_request.id, "attempts": current_request.attempts},
        )  # fmt: skip
    current = champions.champion(database)
    dataset = latest_dataset(services.workspace.root)
    if dataset is None:
        return Decision("refused", reason="there is no data yet; bring images in with `perennial ingest SOURCE`")
    if current is None and requests.last_attempt(database) is None:
        return Decision("retrain", reason="the first model", evidence={"dataset_version": dataset})
    running = current_request is not None and current_request.leased
    decision = should_retrain(
        "forced" if force else cause,
        now=now,
        running=running,
        rules=services.workspace.params.retrain,
        **facts(services, dataset, now=now),
    )
    if running and current_request is not None:
        who = f" ({current_request.claimed_by}; if that was killed, its claim ends within a minute)"
        return replace(decision, reason=decision.reason + who)
    return decision


def facts(services: Services, dataset: str | None, *, now: datetime) -> dict[str, Any]:
    """Return what `should_retrain` weighs beside the cause: attempts, labels, and whether `dataset` is a new one."""
    database = services.database
    last = requests.last_attempt(database)
    trained = champions.models(database)
    return {
        "last_attempt": last.started_at if last else None,
        "last_outcome": last.state if last and last.state in OUTCOMES else None,
        "attempts_this_month": requests.attempts_since(database, _month_start(now)),
        "new_labels": labelling.new_settled_count(database),
        "new_labels_since_attempt": labelling.new_settled_count(database, since=last.started_at if last else None),
        "new_dataset": dataset is not None and (not trained or dataset != trained[0].dataset_version),
    }


def _month_start(now: datetime) -> datetime:
    return now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
