"""Ask daily whether anything but measured accuracy is a reason to retrain, and open the one request that follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from components.alerts.message import old_champion_alert, recovered_alert, refused_retraining_alert
from components.data.versioning.versions import latest_dataset
from components.errors import RefusedError
from components.monitoring.causes import Standing, ask_causes, schedule_missed
from components.operations.alerting import open_alerts, recover, send
from components.operations.retraining.worth import facts
from components.operations.services import Services
from components.operations.windows import closing_obstacle, latest_closed
from components.records import Decision, require_utc
from components.store import champions, ledger, monitoring, requests

KIND = "ask"
LOCK_WAIT_SECONDS = 600.0
CHAMPION_AGE = "champion-age/"


def ask(services: Services, *, actor: str, now: datetime) -> Decision:
    """Return what is decided; "retrain" has opened a request. Every decision is in the ledger, "none" as well.

    A decision that repeats the one before on the same facts is not written again. Two that ask at the same moment take
    turns, and the second finds the first one's request.
    """
    now = require_utc(now)
    with services.database.advisory_lock("ask for causes", LOCK_WAIT_SECONDS):
        decision = act_on(services, standing(services, now=now), actor=actor, now=now)
    _tell(services, decision, now=now)
    return decision


def standing(services: Services, *, now: datetime) -> Standing:
    """Return how the service stands, read from its rows, its dataset versions and its schedule."""
    database = services.database
    champion, unfinished = champions.champion(database), requests.current_request(database)
    window = latest_closed(services, now)
    drifted: tuple[str, ...] = ()
    drift_request = None
    if champion is not None and closing_obstacle(services, window, now) is None:
        found = monitoring.findings(database, window, champion.version)
        drifted = tuple(finding.column for finding in found if finding.drifted)
        drift_request = requests.segment_request(database, window.name, champion.version)
    return Standing(
        now=now,
        champion=champion.version if champion else None,
        trained_at=champion.created_at if champion else None,
        request=unfinished.id if unfinished else None,
        window=window.name,
        drifted=drifted,
        drift_request=drift_request,
        scheduled_at=latest_time(services.workspace.params.schedule.retrain, now),
        asked_at=ledger.last_asked(database, "schedule"),
        **facts(services, latest_dataset(services.workspace.root), now=now),
    )


def latest_time(cron: str, now: datetime) -> datetime | None:
    """Return the latest time of a cron line (UTC) that is not after `now`; None for an empty line."""
    from cronsim import CronSim

    if not cron:
        return None
    # Backwards it starts with the first time before the one given.
    return next(CronSim(cron, require_utc(now) + timedelta(seconds=1), reverse=True))


def require_schedule_due(services: Services, *, now: datetime) -> None:
    """Raise RefusedError where the schedule has asked since its latest time, or has no time.

    A service without a champion is always due: its first model waits for nothing.
    """
    found = standing(services, now=require_utc(now))
    if found.champion is None or schedule_missed(found):
        return
    if found.scheduled_at is None:
        raise RefusedError("schedule.retrain is empty: there is no schedule to ask for; `perennial retrain` needs none")
    raise RefusedError(
        f"not retrained: the schedule of {found.scheduled_at:%Y-%m-%d %H:%M} UTC has asked already, or a retraining "
        "has begun since; `perennial history` shows it"
    )


def act_on(services: Services, stood: Standing, *, actor: str, now: datetime) -> Decision:
    """Return the decision; its row in the ledger and, where it is to retrain, its request are written, or neither.

    Where a judgement has opened a request since `stood` was read, that one serves, and the decision says so.
    """
    rules = services.workspace.params.retrain
    decision = ask_causes(stood, rules)
    with services.database.transaction() as connection:
        if decision.action == "retrain":
            cause = decision.evidence["cause"]
            of_segment = cause == "drift"
            number, new = requests.open_request(
                connection, reason=decision.reason, classes=(), cause=cause, evidence={}, now=now,
                window=stood.window if of_segment else None, model_version=stood.champion if of_segment else None,
            )  # fmt: skip
            if not new:
                decision = ask_causes(replace(stood, request=number), rules)
        if not _repeats(ledger.history(services.database, 1, KIND), decision):
            ledger.record(
                connection, kind=KIND, actor=actor, action=decision.action, reason=decision.reason, now=now,
                model_version=stood.champion, evidence=decision.evidence,
            )  # fmt: skip
    return decision


def _repeats(last: Sequence[Mapping[str, Any]], decision: Decision) -> bool:
    """Return whether a decision not to retrain says what the one before said, on facts that only the clock changed."""
    if not last or decision.action == "retrain":
        return False

    def without_clock(action: str, evidence: Mapping[str, Any]) -> tuple[Any, ...]:
        due = {cause: answer["due"] for cause, answer in evidence["causes"].items()}
        return action, {**evidence["standing"], "now": None, "drifted": [*evidence["standing"]["drifted"]]}, due

    before = last[0]
    rules_kept = before["evidence"]["rules"] == decision.evidence["rules"]
    return rules_kept and without_clock(before["action"], before["evidence"]) == without_clock(
        decision.action, decision.evidence
    )


def _tell(services: Services, decision: Decision, *, now: datetime) -> None:
    """Say why a reason was refused; of a champion past its age, in an alert of its own that ends when that is over."""
    age = decision.evidence["causes"].get("age", {"due": None})
    if age["due"] is None:  # a request is on its way, or there is no champion
        return
    key = f"{CHAMPION_AGE}{decision.evidence['standing']['champion']}"
    for alert in open_alerts(services, CHAMPION_AGE):
        if not age["due"] or alert["key"] != key:
            recover(services, alert["key"], recovered_alert(alert["title"], alert["key"]), now=now)
    if decision.action == "refused" and age["due"]:
        send(services, old_champion_alert(decision.evidence["standing"]["champion"], age["why"], age["said"]), now=now)
    elif decision.action == "refused":
        send(services, refused_retraining_alert(decision), now=now)
