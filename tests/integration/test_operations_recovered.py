"""What people are told when a trouble is over, and that one trouble is told once: on a real database."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from components.operations.alerting import send
from components.operations.monitoring import reactions
from components.operations.services import Services
from components.operations.workspace import Workspace
from components.params import Params
from components.records import ClassAccuracy, ClassState, Decision, DriftFinding, Interval, ModelVersion, Window
from components.registry.mlflow_registry import Registry
from components.scoring.images import ImageStore
from components.settings import Settings
from components.store import alerts_log, monitoring
from components.store.database import Database
from components.store.scored.batches import Batch

# Apprise imports imghdr from the standard library when it loads its channels.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

OCTOBER, NOVEMBER, DECEMBER = (Window.parse(f"2026-{month}") for month in (10, 11, 12))
CLASSES = ("cat", "dog", "owl")
GOOD = Interval(0.95, 0.91, 0.98)


@pytest.fixture
def services(database: Database, model: ModelVersion, tmp_path: Path, fill_batch: Callable[..., Batch]) -> Services:
    """A workspace whose first model scored three months."""
    for window in (OCTOBER, NOVEMBER, DECEMBER):
        fill_batch(window.name, 60, scored_at=window.start + timedelta(days=9))
    workspace = Workspace(tmp_path, Params(), Settings())
    return Services(workspace, database, ImageStore(str(tmp_path / "images")), Registry("sqlite://", str(tmp_path)))


def closed(window: Window) -> datetime:
    return window.end + timedelta(days=3)


def judged(services: Services, window: Window, version: int = 1, **states: ClassState) -> None:
    """Record a final judgement with these states (the others are ok) and let follow what follows."""
    classes = [
        ClassAccuracy(name, 20, 20, GOOD, None, state, ("precision 61.0 %",) if state is ClassState.ALARM else ())
        for name in CLASSES
        for state in [states.get(name, ClassState.OK)]
    ]
    fallen = tuple(c.name for c in classes if c.state is ClassState.ALARM)
    decision = Decision("retrain" if fallen else "none", fallen, "accuracy fell" if fallen else "nothing found")
    payload = {"final": True, "decision": decision.as_json(), "rules": {}, "states": {}}
    now = closed(window)
    with services.database.transaction() as connection:
        monitoring.record_judgement(connection, window, version, 1, payload, now=now)
    reactions.follow_up(services, window, version, classes, decision, note="", now=now)


def told(services: Services) -> list[str]:
    """Return the titles of all alerts as they went out, oldest first."""
    file = services.workspace.state / "alerts.jsonl"
    return [json.loads(line)["title"] for line in file.read_text(encoding="utf-8").splitlines()]


def open_keys(services: Services) -> set[str]:
    return {row["key"] for row in alerts_log.recent_alerts(services.database, 50) if row["state"] == "open"}


FELL = "Accuracy fell in 2026-10: cat, dog"


def test_when_every_class_is_well_again_the_alert_is_over_and_is_said_to_be(services: Services) -> None:
    judged(services, OCTOBER, cat=ClassState.ALARM, dog=ClassState.ALARM)
    judged(services, NOVEMBER)
    judged(services, DECEMBER)
    assert told(services) == [FELL, f"Recovered: {FELL}"]
    assert open_keys(services) == set()
    last = json.loads((services.workspace.state / "alerts.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert last["level"] == "info"
    assert "cat precision 95.0 % (91.0-98.0); dog precision 95.0 % (91.0-98.0)" in last["body"]


def test_a_class_that_is_well_again_is_named_while_the_alert_stays_open_for_the_other(services: Services) -> None:
    judged(services, OCTOBER, cat=ClassState.ALARM, dog=ClassState.ALARM)
    judged(services, NOVEMBER, dog=ClassState.ALARM)
    assert told(services) == [FELL, "Well again in 2026-11: cat", "Accuracy fell in 2026-11: dog"]
    assert {"accuracy/2026-10/1", "accuracy/2026-11/1"} <= open_keys(services)
    judged(services, DECEMBER)
    assert sorted(told(services)[3:]) == [
        "Recovered: Accuracy fell in 2026-10: cat, dog",
        "Recovered: Accuracy fell in 2026-11: dog",
    ]
    assert not [key for key in open_keys(services) if key.startswith("accuracy/")]


@pytest.mark.parametrize("state", [ClassState.SUSPECT, ClassState.INSUFFICIENT, ClassState.NOT_MEASURABLE])
def test_a_class_about_which_too_little_is_known_is_not_called_well(services: Services, state: ClassState) -> None:
    judged(services, OCTOBER, cat=ClassState.ALARM)
    judged(services, NOVEMBER, cat=state)
    assert told(services) == ["Accuracy fell in 2026-10: cat"]
    assert open_keys(services) == {"accuracy/2026-10/1"}


def test_an_earlier_window_says_nothing_of_a_later_alert(services: Services) -> None:
    judged(services, NOVEMBER, cat=ClassState.ALARM)
    judged(services, OCTOBER)
    assert open_keys(services) == {"accuracy/2026-11/1"}


def test_a_new_model_in_the_same_window_may_be_well_and_an_old_one_says_nothing(
    services: Services, make_model: Callable[..., ModelVersion], fill_batch: Callable[..., Batch]
) -> None:
    from components.store.champions import register_model

    register_model(services.database, make_model(2))
    fill_batch("second", 60, scored_at=OCTOBER.start + timedelta(days=20), model_version=2)
    judged(services, OCTOBER, cat=ClassState.ALARM)
    judged(services, OCTOBER, version=2)
    assert told(services) == ["Accuracy fell in 2026-10: cat", "Recovered: Accuracy fell in 2026-10: cat"]


def test_a_repeated_run_tells_nothing_twice(services: Services) -> None:
    for _ in range(2):
        judged(services, OCTOBER, cat=ClassState.ALARM, dog=ClassState.ALARM)
    for _ in range(2):
        judged(services, NOVEMBER, dog=ClassState.SUSPECT)
    assert told(services) == [FELL, "Well again in 2026-11: cat"]


def drifts(
    services: Services, window: Window, *columns: str, undecided: bool = False, at: datetime | None = None
) -> None:
    found = [
        DriftFinding(name, None if undecided else 1e-9 if name in columns else 0.6, 0.3, name in columns)
        for name in ("brightness", "predicted", "width")
    ]
    reactions.on_drift(services, window, 1, found, [], now=at or closed(window))


def test_drift_is_told_once_and_again_only_after_it_was_over(services: Services) -> None:
    drifts(services, OCTOBER, "brightness", at=OCTOBER.start + timedelta(days=12))
    drifts(services, OCTOBER, "brightness")
    drifts(services, NOVEMBER, undecided=True)
    assert told(services) == ["Drift in 2026-10: brightness"]
    drifts(services, NOVEMBER)
    assert told(services)[1:] == ["Recovered: Drift in 2026-10: brightness"]
    drifts(services, OCTOBER, "brightness", at=closed(NOVEMBER))  # looked at again while its labels come
    drifts(services, NOVEMBER)
    assert len(told(services)) == 2
    drifts(services, DECEMBER, "brightness")
    assert told(services)[2:] == ["Drift in 2026-12: brightness"]


def test_a_window_that_still_runs_does_not_say_that_drift_is_over(services: Services) -> None:
    drifts(services, OCTOBER, "brightness")
    drifts(services, NOVEMBER, at=NOVEMBER.start + timedelta(days=10))
    assert told(services) == ["Drift in 2026-10: brightness"]


def test_one_column_less_is_not_the_end_of_a_drift(services: Services) -> None:
    drifts(services, OCTOBER, "brightness", "width")
    drifts(services, NOVEMBER, "width")
    assert "drift/1/brightness,width" in open_keys(services)


def test_a_channel_that_is_dead_is_said_without_its_secret_and_the_alert_is_kept(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(alert_urls=("json://bob:wordpass@127.0.0.1:1/hooktoken",))
    dead = replace(services, workspace=replace(services.workspace, settings=settings))
    from components.alerts.message import failure_alert

    alert = failure_alert("retraining", "the disk is full")
    assert send(dead, alert, now=closed(OCTOBER))
    assert not send(dead, alert, now=closed(OCTOBER))  # counted, not repeated
    (row,) = alerts_log.recent_alerts(services.database, 5)
    assert row["times"] == 2
    assert told(dead) == ["retraining failed"]
    assert "json://127.0.0.1:1: did not take the alert" in caplog.text
    kept: list[Any] = [caplog.text, (dead.workspace.state / "alerts.jsonl").read_text(encoding="utf-8"), str(row)]
    assert not [secret for secret in ("wordpass", "hooktoken") if secret in "".join(kept)]
