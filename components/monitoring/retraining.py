"""Is a retraining worth it? Asked before one starts; a refusal is a decision with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

from components.params import Retrain
from components.records import Decision, Window, WindowLength, require_utc

Cause = Literal["accuracy", "drift", "schedule", "labels", "age", "manual", "forced"]
Outcome = Literal["done", "refused", "failed", "unhelpful"]


def should_retrain(
    cause: Cause,
    *,
    classes: Sequence[str] = (),
    now: datetime,
    last_attempt: datetime | None,
    last_outcome: Outcome | None,
    attempts_this_month: int,
    new_labels: int,
    new_labels_since_attempt: int,
    running: bool,
    new_dataset: bool = False,
    rules: Retrain,
) -> Decision:
    """Return whether to retrain now: action "retrain", "refused" with the reason, or "ask-labels" for mere drift.

    new_labels: audited labels settled since the champion's data; new_labels_since_attempt: since the last attempt.
    attempts_this_month: started in the calendar month of `now`. new_dataset: images came in that the champion was not
    trained on. A person's request (`manual`) does not wait for a cooldown or for many labels, but for something new;
    with `forced` only another retraining under way stands in the way. Drift asks for labels unless `retrain_on` is
    "drift".
    """
    evidence = {
        "cause": cause,
        "now": require_utc(now).isoformat(),
        "last_attempt": require_utc(last_attempt).isoformat() if last_attempt else None,
        "last_outcome": last_outcome,
        "attempts_this_month": attempts_this_month,
        "new_labels": new_labels,
        "new_labels_since_attempt": new_labels_since_attempt,
        "running": running,
        "new_dataset": new_dataset,
        "rules": rules.model_dump(),
    }
    named = tuple(classes)
    if cause == "drift" and rules.retrain_on != "drift":
        return Decision(
            "ask-labels", named, "drift asks for labels; only measured accuracy starts a retraining", evidence
        )
    refusal = "another retraining is under way" if running else ""
    if not refusal and cause == "manual" and not new_labels and not new_dataset:
        refusal = "nothing new since the last training: no settled label, no new image"
    if not refusal and cause not in ("manual", "forced"):
        refusal = (
            _too_soon(now, last_attempt, rules)
            or _too_often(attempts_this_month, rules)
            or ("" if new_dataset else _nothing_new(last_outcome, new_labels, new_labels_since_attempt, rules))
        )
    if refusal:
        return Decision("refused", named, refusal, evidence)
    return Decision("retrain", named, f"worth it: {new_labels} new labels, cause {cause}", evidence)


def schedule_due(
    now: datetime,
    last_attempt: datetime | None,
    every: WindowLength = "month",
    *,
    scheduled_at: datetime | None = None,
) -> bool:
    """Return whether the scheduled retraining of the current month, week or day is still to be made.

    However many were missed, one catches up. Times are aware; windows are UTC. scheduled_at: the latest time, up to
    `now`, of a schedule that keeps to other times than the beginning of windows.
    """
    if last_attempt is None:
        return True
    since = Window.containing(now, every).start if scheduled_at is None else require_utc(scheduled_at)
    return require_utc(last_attempt) < since


def champion_too_old(now: datetime, trained_at: datetime, rules: Retrain) -> bool:
    """Return whether the champion is older than `max_age_days` and should be renewed, or an alert say why not."""
    return require_utc(now) - require_utc(trained_at) > timedelta(days=rules.max_age_days)


def _too_soon(now: datetime, last_attempt: datetime | None, rules: Retrain) -> str:
    if last_attempt is None:
        return ""
    free_at = require_utc(last_attempt) + timedelta(days=rules.cooldown_days)
    if require_utc(now) >= free_at:
        return ""
    return f"last attempt {require_utc(last_attempt):%Y-%m-%d %H:%M}, the cooldown ends {free_at:%Y-%m-%d %H:%M} UTC"


def _too_often(attempts_this_month: int, rules: Retrain) -> str:
    if attempts_this_month < rules.most_per_month:
        return ""
    return f"{attempts_this_month} retrainings this month, at most {rules.most_per_month} are allowed"


def _nothing_new(last_outcome: Outcome | None, new_labels: int, since_attempt: int, rules: Retrain) -> str:
    least = rules.minimum_new_labels
    if new_labels < least:
        return f"{new_labels} new audited labels since the last training, {least} are needed"
    if last_outcome in ("refused", "unhelpful") and since_attempt < least:
        return f"the last retraining did not help, and only {since_attempt} labels came since; {least} are needed"
    return ""
