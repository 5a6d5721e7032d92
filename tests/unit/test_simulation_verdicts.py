"""What a simulated run may claim, held against its truth."""

from __future__ import annotations

from typing import Any

from components.simulation.verdicts import verdicts


def month(
    recall: float, *, alarmed: list[str] | None = None, promoted: bool | None = None, precision: float = 0.95
) -> dict[str, Any]:
    return {
        "window": "2026-01",
        "classes": [{"name": "a", "true_precision": precision, "true_recall": recall}],
        "alarmed": alarmed or [],
        "renewal": None if promoted is None else {"promoted": promoted},
    }


def claims(months: list[dict[str, Any]]) -> dict[str, bool]:
    return dict(verdicts(months)["verdicts"])


def test_an_alarm_in_a_class_that_did_not_fall_is_a_false_one() -> None:
    found = verdicts([month(0.95), month(0.94, alarmed=["a"], promoted=True)])
    assert found["false_alarms"] == [{"window": "2026-01", "class": "a"}]


def test_a_fall_in_precision_alone_justifies_an_alarm() -> None:
    found = verdicts([month(0.95), month(0.95, alarmed=["a"], promoted=True, precision=0.6)])
    assert found["false_alarms"] == []


def test_a_class_plainly_worse_for_two_months_without_an_alarm_is_missed() -> None:
    assert verdicts([month(0.95), month(0.7), month(0.7)])["missed"] == [{"window": "2026-01", "class": "a"}]
    assert verdicts([month(0.95), month(0.7), month(0.7, alarmed=["a"])])["missed"] == []
    assert verdicts([month(0.95), month(0.7), month(0.95)])["missed"] == []


def test_the_share_of_lost_recall_that_came_back_is_stated() -> None:
    run = [month(0.9), month(0.1, alarmed=["a"], promoted=True), month(0.7)]
    (recovery,) = verdicts(run)["recovery"]
    assert round(recovery["regained"], 3) == 0.75
    assert False in claims(run).values(), "three quarters are less than the four fifths that are promised"


def test_an_alarm_without_a_promotion_breaks_the_claim() -> None:
    run = [month(0.9), month(0.1, alarmed=["a"], promoted=False), month(0.9)]
    assert [text for text, holds in claims(run).items() if not holds] == ["every alarm led to a promotion (none)"]
