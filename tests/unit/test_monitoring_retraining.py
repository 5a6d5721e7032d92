"""When a retraining is worth it, and when it is refused with a reason."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from components.errors import ConfigurationError
from components.monitoring.retraining import champion_too_old, schedule_due, should_retrain
from components.params import Retrain

NOW = datetime(2026, 10, 20, 6, tzinfo=UTC)
RULES = Retrain()


def asked(cause="accuracy", rules=RULES, **changes):
    facts = {
        "classes": ("Sneaker",),
        "now": NOW,
        "last_attempt": NOW - timedelta(days=40),
        "last_outcome": "done",
        "attempts_this_month": 0,
        "new_labels": 500,
        "new_labels_since_attempt": 500,
        "running": False,
    }
    return should_retrain(cause, rules=rules, **{**facts, **changes})


def test_an_accuracy_alarm_with_new_labels_retrains_and_names_its_classes():
    decision = asked()
    assert decision.action == "retrain"
    assert decision.classes == ("Sneaker",)
    assert decision.evidence["new_labels"] == 500


def test_the_first_attempt_of_all_has_no_cooldown():
    assert asked(last_attempt=None, last_outcome=None).action == "retrain"


@pytest.mark.parametrize("cause", ["accuracy", "schedule", "labels", "age", "manual"])
def test_a_second_retraining_never_starts_beside_another(cause):
    decision = asked(cause, running=True)
    assert decision.action == "refused"
    assert "under way" in decision.reason


def test_a_second_alarm_within_the_cooldown_does_not_retrain():
    decision = asked(last_attempt=NOW - timedelta(days=19, hours=23))
    assert decision.action == "refused"
    assert "the cooldown ends 2026-10-20 07:00 UTC" in decision.reason


def test_the_cooldown_ends_to_the_second():
    assert asked(last_attempt=NOW - timedelta(days=20)).action == "retrain"


def test_no_more_retrainings_than_allowed_in_a_month():
    decision = asked(attempts_this_month=2)
    assert decision.action == "refused"
    assert "at most 2" in decision.reason


def test_too_few_new_labels_are_not_worth_a_retraining():
    assert asked(new_labels=49).action == "refused"
    assert asked(new_labels=50).action == "retrain"


@pytest.mark.parametrize("outcome", ["refused", "unhelpful"])
def test_a_retraining_that_did_not_help_does_not_start_the_next_one(outcome):
    assert asked(last_outcome=outcome, new_labels_since_attempt=10).action == "refused"
    assert asked(last_outcome=outcome, new_labels_since_attempt=50).action == "retrain"


def test_a_failed_retraining_may_be_tried_again_without_further_labels():
    assert asked(last_outcome="failed", new_labels_since_attempt=0).action == "retrain"


def test_drift_asks_for_labels_unless_switched_on():
    assert asked("drift").action == "ask-labels"
    assert asked("drift", Retrain(retrain_on="drift")).action == "retrain"


def test_a_person_is_not_held_up_by_the_cooldown():
    assert asked("manual", last_attempt=NOW - timedelta(hours=1), attempts_this_month=9).action == "retrain"


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(ConfigurationError, match="no zone"):
        asked(now=datetime(2026, 10, 20, 6))  # noqa: DTZ001


def test_a_week_of_missed_schedules_makes_one_catch_up():
    last = datetime(2026, 7, 1, 3, tzinfo=UTC)
    assert schedule_due(NOW, last)
    assert not schedule_due(NOW, NOW - timedelta(hours=1))
    assert not schedule_due(datetime(2026, 10, 31, 23, 59, tzinfo=UTC), datetime(2026, 10, 1, 0, 0, tzinfo=UTC))
    assert schedule_due(NOW, None)


def test_a_champion_ages():
    assert not champion_too_old(NOW, NOW - timedelta(days=183), RULES)
    assert champion_too_old(NOW, NOW - timedelta(days=183, seconds=1), RULES)
