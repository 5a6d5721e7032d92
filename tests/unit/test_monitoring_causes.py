"""Reasons to retrain besides accuracy: which are there, which one wins, and that the evidence alone says it again."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from components.errors import ConfigurationError, DataError
from components.monitoring.causes import Standing, ask_again, ask_causes, schedule_missed
from components.operations.retraining.causes import latest_time
from components.params import Retrain, Schedule, parse_strictly

NOW = datetime(2026, 11, 10, 6, tzinfo=UTC)
RULES = Retrain()
QUIET = Standing(
    now=NOW,
    champion=3,
    trained_at=NOW - timedelta(days=60),
    request=None,
    window="2026-10",
    drifted=(),
    drift_request=None,
    scheduled_at=datetime(2026, 11, 1, 3, tzinfo=UTC),
    asked_at=datetime(2026, 11, 1, 3, tzinfo=UTC),
    last_attempt=NOW - timedelta(days=60),
    last_outcome="done",
    attempts_this_month=0,
    new_labels=600,
    new_labels_since_attempt=600,
    new_dataset=False,
)
OLD = {"trained_at": NOW - timedelta(days=184)}
MISSED = {"asked_at": datetime(2026, 10, 1, 3, tzinfo=UTC)}
MANY = {"new_labels": 2000, "new_labels_since_attempt": 2000}
DRIFTED = {"drifted": ("brightness", "predicted")}
ON_DRIFT = Retrain(retrain_on="drift")


def test_a_quiet_service_is_left_alone_and_every_cause_says_why() -> None:
    decision = ask_causes(QUIET, RULES)
    assert decision.action == "none"
    for words in (
        "drift only asks",
        "60 days old, 183 are",
        "600 new labels, 2000 start",
        "the schedule of 2026-11-01",
    ):
        assert words in decision.reason


@pytest.mark.parametrize(
    ("cause", "change", "rules", "words"),
    [
        ("schedule", MISSED, RULES, "the scheduled retraining of 2026-11-01 03:00 UTC was not made"),
        ("labels", MANY, RULES, "2000 new labels, 2000 start a retraining"),
        ("age", OLD, RULES, "version 3 is 184 days old"),
        ("drift", DRIFTED, ON_DRIFT, "brightness, predicted drifted in window 2026-10"),
    ],
)
def test_each_cause_opens_a_request_in_its_own_words(cause: str, change: dict, rules: Retrain, words: str) -> None:
    decision = ask_causes(replace(QUIET, **change), rules)
    assert decision.action == "retrain"
    assert decision.evidence["cause"] == cause
    assert words in decision.reason


@pytest.mark.parametrize(
    "change",
    [
        {"asked_at": None, "last_attempt": datetime(2026, 11, 1, 3, tzinfo=UTC)},  # of whatever cause
        {"asked_at": datetime(2026, 11, 2, 6, tzinfo=UTC)},
        {"scheduled_at": None, "asked_at": None},
    ],
)
def test_the_schedule_asks_once_for_each_of_its_times(change: dict) -> None:
    assert not schedule_missed(replace(QUIET, **change))


def test_however_many_months_were_missed_one_ask_catches_up() -> None:
    asleep = replace(QUIET, asked_at=datetime(2026, 6, 1, 3, tzinfo=UTC))
    assert schedule_missed(asleep)
    assert not schedule_missed(replace(asleep, asked_at=NOW))


def test_the_times_of_the_schedule_are_its_own_and_not_the_first_of_a_month() -> None:
    fifteenth = replace(QUIET, scheduled_at=datetime(2026, 10, 15, 3, tzinfo=UTC))
    assert not schedule_missed(replace(fifteenth, asked_at=datetime(2026, 10, 15, 3, tzinfo=UTC)))
    assert schedule_missed(replace(fifteenth, asked_at=datetime(2026, 10, 15, 2, tzinfo=UTC), last_attempt=None))


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("0 3 1 * *", datetime(2026, 11, 1, 3, tzinfo=UTC)),
        ("0 6 10 * *", NOW),
        ("1 6 10 * *", datetime(2026, 10, 10, 6, 1, tzinfo=UTC)),
        ("30 2 * * 1", datetime(2026, 11, 9, 2, 30, tzinfo=UTC)),
        ("", None),
    ],
)
def test_the_latest_time_of_a_cron_line(cron: str, expected: datetime | None) -> None:
    assert latest_time(cron, NOW) == expected


def test_a_cron_line_that_is_none_is_named_when_params_are_loaded() -> None:
    with pytest.raises(ConfigurationError, match=r"retrain: not a cron line \(Bad minute\)"):
        parse_strictly(Schedule, {"retrain": "61 * * * *"}, "params.yaml")
    assert parse_strictly(Schedule, {"retrain": ""}, "params.yaml").retrain == ""


@pytest.mark.parametrize("change", [MISSED, OLD, MANY])
def test_a_reason_that_is_not_worth_it_is_refused_with_both_said(change: dict) -> None:
    decision = ask_causes(replace(QUIET, **change, last_attempt=NOW - timedelta(days=5)), RULES)
    if change is MISSED:  # five days ago was after the first of the month
        assert decision.action == "none"
        return
    assert decision.action == "refused"
    assert "but not retrained: last attempt" in decision.reason


def test_a_reason_whose_retraining_did_not_help_waits_for_labels() -> None:
    unhelpful = replace(QUIET, **OLD, last_outcome="unhelpful", new_labels_since_attempt=49)
    assert ask_causes(unhelpful, RULES).action == "refused"
    assert ask_causes(replace(unhelpful, new_labels_since_attempt=50), RULES).action == "retrain"


@pytest.mark.parametrize("change", [{"request": 7}, {"champion": None, "trained_at": None}])
def test_beside_an_unfinished_request_or_before_a_champion_no_cause_is_asked(change: dict) -> None:
    decision = ask_causes(replace(QUIET, **{**OLD, **MANY, **MISSED, **change}), RULES)
    assert decision.action == "none"
    assert decision.evidence["causes"] == {}


def test_labels_start_nothing_where_that_is_off() -> None:
    assert ask_causes(replace(QUIET, **MANY), Retrain(new_labels=0)).action == "none"


def test_drift_starts_nothing_unless_told_to_and_once_a_segment() -> None:
    assert ask_causes(replace(QUIET, **DRIFTED), RULES).action == "none"
    again = ask_causes(replace(QUIET, **DRIFTED, drift_request=4), ON_DRIFT)
    assert again.action == "none"
    assert "has made request 4" in again.reason


@pytest.mark.parametrize("change", [{}, OLD, MISSED, DRIFTED, {"request": 2}, {**OLD, "new_labels": 3}])
def test_the_evidence_as_json_leads_to_the_same_decision(change: dict) -> None:
    decision = ask_causes(replace(QUIET, **change), ON_DRIFT)
    assert ask_again(json.loads(json.dumps(decision.evidence))).as_json() == decision.as_json()


def test_evidence_of_something_else_is_refused() -> None:
    with pytest.raises(DataError, match="kind ask"):
        ask_again({"cause": "manual"})
