"""Is there a reason to retrain besides measured accuracy? Asked daily, answered from rows alone, and at most one found.

Drift (where `retrain_on` is "drift"), a champion past its age, enough new labels, and the schedule, where its run was
missed. A reason is not enough: `should_retrain` then says whether a retraining is worth it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, get_args, get_type_hints

from components.errors import ConfigurationError, DataError
from components.monitoring.retraining import Cause, Outcome, champion_too_old, schedule_due, should_retrain
from components.params import Retrain
from components.records import Decision, parse_time, require_utc

CAUSES: tuple[Cause, ...] = ("drift", "age", "labels", "schedule")
"""In the order in which they are asked; the first whose retraining is worth it names the request."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a service stands when it is asked. Times are aware.

    champion: its version, trained_at: when it was registered; both None before the first. request: the number of the
    unfinished one. window, drifted: the champion's latest closed window and its drifted columns; drift_request: the
    number of the one that this segment has made before. scheduled_at: the schedule's latest time, None where it is on
    demand only; asked_at: when it last asked, then or by catching up. The rest is as in `should_retrain`.
    """

    now: datetime
    champion: int | None
    trained_at: datetime | None
    request: int | None
    window: str | None
    drifted: tuple[str, ...]
    drift_request: int | None
    scheduled_at: datetime | None
    asked_at: datetime | None
    last_attempt: datetime | None
    last_outcome: Outcome | None
    attempts_this_month: int
    new_labels: int
    new_labels_since_attempt: int
    new_dataset: bool

    def as_json(self) -> dict[str, Any]:
        """Return the object that `from_json` reads back."""
        return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Standing:
        """Return the standing that `as_json` wrote. Raises KeyError or ConfigurationError where it is not one."""
        hints = get_type_hints(cls)
        read = {f.name: content[f.name] for f in fields(cls)}
        for name, value in read.items():
            if isinstance(value, str) and (hints[name] is datetime or datetime in get_args(hints[name])):
                read[name] = parse_time(value)
        return cls(**{**read, "drifted": tuple(read["drifted"])})


def ask_causes(standing: Standing, rules: Retrain) -> Decision:
    """Return "retrain", "refused" where a reason exists that is not worth a retraining now, or "none".

    The evidence holds the standing, the rules, the cause that won and what was said to each; `ask_again` starts there.
    """
    evidence: dict[str, Any] = {
        "standing": standing.as_json(),
        "rules": rules.model_dump(),
        "cause": None,
        "causes": {},
    }
    if standing.champion is None:
        return Decision("none", reason="there is no champion to renew", evidence=evidence)
    if standing.request is not None:
        reason = f"request {standing.request} is not finished; it renews the model whatever its cause"
        return Decision("none", reason=reason, evidence=evidence)
    refused = []
    for cause in CAUSES:
        why, due = _reason(cause, standing, rules)
        worth = _worth_it(cause, standing, rules) if due else None
        said = worth.reason if worth else ""
        evidence["causes"][cause] = {"due": due, "why": why, "action": worth.action if worth else "none", "said": said}
        if worth is not None and worth.action == "retrain":
            evidence["cause"] = cause
            return Decision("retrain", reason=f"{why}; {said}", evidence=evidence)
        if worth is not None:
            refused.append(f"{why}, but not retrained: {said}")
    if refused:
        return Decision("refused", reason="; ".join(refused), evidence=evidence)
    reasons = [str(answer["why"]) for answer in evidence["causes"].values()]
    return Decision("none", reason="; ".join(reasons), evidence=evidence)


def ask_again(evidence: Mapping[str, Any]) -> Decision:
    """Return the decision that a ledger's evidence leads to. Raises DataError if it is not the evidence of an ask."""
    try:
        return ask_causes(Standing.from_json(evidence["standing"]), Retrain(**evidence["rules"]))
    except (KeyError, TypeError, ValueError, ConfigurationError) as error:
        raise DataError(f"not the evidence of an ask ({error!r}); take that of a ledger's row of kind ask") from error


def schedule_missed(standing: Standing) -> bool:
    """Return whether the schedule's latest time has passed without an ask or an attempt of any cause since.

    However many times were missed, there is one latest.
    """
    if standing.scheduled_at is None:
        return False
    seen = [m for m in (standing.asked_at, standing.last_attempt) if m is not None]
    return schedule_due(standing.now, max(seen, default=None), scheduled_at=standing.scheduled_at)


def _reason(cause: Cause, standing: Standing, rules: Retrain) -> tuple[str, bool]:
    """Return what there is to say of a cause, and whether it asks for a retraining."""
    if cause == "drift":
        return _of_drift(standing, rules)
    if cause == "age":
        return _of_age(standing, rules)
    if cause == "labels":
        return _of_labels(standing, rules)
    if standing.scheduled_at is None:
        return "there is no schedule", False
    if schedule_missed(standing):
        return f"the scheduled retraining of {standing.scheduled_at:%Y-%m-%d %H:%M} UTC was not made", True
    return f"the schedule of {standing.scheduled_at:%Y-%m-%d %H:%M} UTC has asked", False


def _of_drift(standing: Standing, rules: Retrain) -> tuple[str, bool]:
    if rules.retrain_on != "drift":
        return "drift only asks for labels", False
    if not standing.drifted:
        return "no column of the latest closed window drifted", False
    columns = ", ".join(standing.drifted)
    if standing.drift_request is not None:
        return f"the drift of {columns} in {standing.window} has made request {standing.drift_request}", False
    return f"{columns} drifted in window {standing.window}", True


def _of_age(standing: Standing, rules: Retrain) -> tuple[str, bool]:
    if standing.trained_at is None:
        return "the champion's age is not known", False
    old = champion_too_old(standing.now, standing.trained_at, rules)
    days = (require_utc(standing.now) - require_utc(standing.trained_at)).days
    return f"version {standing.champion} is {days} days old, {rules.max_age_days} are allowed", old


def _of_labels(standing: Standing, rules: Retrain) -> tuple[str, bool]:
    if rules.new_labels == 0:
        return "labels alone start no retraining", False
    due = standing.new_labels >= rules.new_labels
    return f"{standing.new_labels} new labels, {rules.new_labels} start a retraining", due


def _worth_it(cause: Cause, standing: Standing, rules: Retrain) -> Decision:
    return should_retrain(
        cause,
        now=standing.now,
        last_attempt=standing.last_attempt,
        last_outcome=standing.last_outcome,
        attempts_this_month=standing.attempts_this_month,
        new_labels=standing.new_labels,
        new_labels_since_attempt=standing.new_labels_since_attempt,
        running=False,
        new_dataset=standing.new_dataset,
        rules=rules,
    )
