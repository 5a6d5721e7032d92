"""Reasons to retrain besides accuracy, asked of a real database: requests, ledger rows and alerts that follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from components.data.versioning.git import git
from components.errors import RefusedError
from components.labels.consensus import settle
from components.monitoring.causes import ask_again
from components.operations.retraining import attempt as attempts
from components.operations.retraining.causes import act_on, ask, require_schedule_due, standing
from components.operations.retraining.readiness import due_request
from components.operations.services import Services
from components.operations.workspace import Workspace
from components.params import Params, Retrain
from components.records import DriftFinding, LabelAnswer, LabelTask, ModelVersion, ScoredChunk, Window
from components.registry.mlflow_registry import Registry
from components.scoring.images import ImageStore
from components.settings import Settings
from components.store import alerts_log, champions, labelling, ledger, monitoring, predictions, requests
from components.store.database import Database
from components.store.scored.batches import Batch

SCORED = datetime(2026, 11, 20, 12, tzinfo=UTC)  # when the champion was registered, too
NOVEMBER = Window.parse("2026-11")
DATASET = "data/2026-11-01-1"  # the one that the champion was trained on
MORNING = datetime(2026, 12, 4, 6, tzinfo=UTC)
ASKED_ON_TIME = datetime(2026, 12, 1, 3, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def services(database: Database, model: ModelVersion, tmp_path: Path) -> Services:
    """A workspace with a champion that was trained on its one dataset version."""
    git("init", "--quiet", ".", cwd=tmp_path)
    who = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    git(*who, "commit", "--quiet", "--allow-empty", "-m", "x", cwd=tmp_path)
    git("tag", DATASET, cwd=tmp_path)
    champions.compare_and_set(database, expected=None, new=1, now=SCORED, actor="t", reason="first", evidence={})
    workspace = Workspace(tmp_path, Params(), Settings())
    return Services(workspace, database, ImageStore(str(tmp_path / "images")), Registry("sqlite://", str(tmp_path)))


@pytest.fixture
def tasks(services: Services, fill_batch: Callable[..., Batch]) -> list[LabelTask]:
    fill_batch("b1", 600)
    labelling.fill_training_queue(services.database, NOVEMBER, 1, classes=(), limit=600, now=SCORED)
    return labelling.tasks(services.database, "training", limit=None)


@pytest.fixture
def asked_on_time(services: Services) -> Iterator[None]:
    """The schedule of December has asked, in vain."""
    require_schedule_due(services, now=ASKED_ON_TIME)
    with pytest.raises(RefusedError, match="0 new audited labels"):
        attempts.begin(services, cause="schedule", reason="schedule", force=False, actor="schedule", now=ASKED_ON_TIME)
    return


def under(services: Services, **rules: object) -> Services:
    """The same service under other rules of retraining."""
    params = services.workspace.params.model_copy(update={"retrain": Retrain(**rules)})
    return replace(services, workspace=replace(services.workspace, params=params))


def answer(services: Services, tasks: list[LabelTask], many: int, at: datetime) -> None:
    given = [LabelAnswer(tasks.pop().task_id, "dog", "ann", at) for _ in range(many)]
    labelling.record_answers(services.database, given, now=at, settle=partial(settle, wanted=1))


def asks(services: Services) -> list[dict[str, Any]]:
    return ledger.history(services.database, 100, "ask")


def alerts(services: Services, prefix: str = "") -> list[tuple[str, str, int]]:
    rows = alerts_log.recent_alerts(services.database, 100)
    return [(row["key"], row["state"], row["times"]) for row in rows if row["key"].startswith(prefix)]


def live_through(services: Services, now: datetime, outcome: requests.Outcome) -> str:
    """Begin the open request as the daily flow does, end it with `outcome`, and return its cause."""
    assert due_request(services, now=now) is not None
    begun = attempts.begin(services, cause="accuracy", reason="due", force=False, actor="daily", now=now)
    if outcome != "failed":
        settled = [label.task_id for label in labelling.settled_labels(services.database)]
        labelling.mark_exported(services.database, settled, DATASET)
    requests.finish_request(services.database, begun.request, outcome, "", now, worker=begun.worker)
    return begun.cause


def test_a_quiet_day_is_in_the_ledger_once_and_can_be_decided_again(services: Services, asked_on_time: None) -> None:
    for day in range(3):
        assert ask(services, actor="daily", now=MORNING + day * DAY).action == "none"
    (row,) = asks(services)
    assert row["action"] == "none"
    assert ask_again(row["evidence"]).reason == row["reason"]
    assert requests.current_request(services.database) is None
    assert alerts(services, "champion-age/") == []


def test_a_service_that_slept_over_the_first_of_the_month_catches_up_once(
    services: Services, tasks: list[LabelTask]
) -> None:
    answer(services, tasks, 60, SCORED)
    decision = ask(services, actor="daily", now=MORNING + 70 * DAY)  # two times of the schedule were missed
    assert decision.action == "retrain"
    opened = requests.current_request(services.database)
    assert opened is not None
    assert opened.evidence["cause"] == "schedule"
    assert "the scheduled retraining of 2027-02-01 03:00 UTC was not made" in opened.reason
    assert ask(services, actor="daily", now=MORNING + 71 * DAY).action == "none"
    assert live_through(services, MORNING + 71 * DAY, "unhelpful") == "schedule"
    for day in range(72, 86):
        assert ask(services, actor="daily", now=MORNING + day * DAY).action == "none"
    with pytest.raises(RefusedError, match="the schedule of 2027-02-01 03:00 UTC has asked already"):
        require_schedule_due(services, now=MORNING + 72 * DAY)


def test_where_the_catching_up_is_not_worth_it_it_is_refused_once_with_the_reason_and_an_alert(
    services: Services,
) -> None:
    refused = ask(services, actor="daily", now=MORNING)
    assert refused.action == "refused"
    assert "0 new audited labels since the last training, 50 are needed" in refused.reason
    assert ask(services, actor="daily", now=MORNING + DAY).action == "none"
    assert alerts(services) == [("retraining-refused/", "open", 1)]
    with pytest.raises(RefusedError, match="has asked already"):
        require_schedule_due(services, now=MORNING + DAY)
    require_schedule_due(services, now=MORNING + 30 * DAY)


def test_enough_labels_open_a_request_that_begins_at_once_and_ends_the_alert_of_a_refusal(
    services: Services, tasks: list[LabelTask]
) -> None:
    eager = under(services, new_labels=200)
    assert ask(eager, actor="daily", now=MORNING).action == "refused"  # the schedule, caught up with
    answer(eager, tasks, 199, MORNING)
    assert ask(eager, actor="daily", now=MORNING + DAY).action == "none"
    answer(eager, tasks, 1, MORNING + DAY)
    decision = ask(eager, actor="daily", now=MORNING + 2 * DAY)
    assert decision.action == "retrain"
    assert "200 new labels, 200 start a retraining" in decision.reason
    # Most of the training queue is open, but this request does not wait for it.
    assert live_through(eager, MORNING + 2 * DAY, "done") == "labels"
    assert alerts(eager) == [("retraining-refused/", "recovered", 1)]
    assert ask(eager, actor="daily", now=MORNING + 3 * DAY).action == "none"  # the labels are used


def test_an_old_champion_is_renewed_or_one_alert_says_why_not_until_it_is(
    services: Services, tasks: list[LabelTask], make_model: Callable[..., ModelVersion]
) -> None:
    old = SCORED + 184 * DAY
    require_schedule_due(services, now=old)
    for day in range(3):
        assert ask(services, actor="daily", now=old + day * DAY).action == "refused"
    assert alerts(services) == [("champion-age/1", "open", 3)]
    (told, *_) = alerts_log.recent_alerts(services.database, 1)
    assert told["level"] == "ticket"
    assert "0 new audited labels since the last training, 50 are needed" in told["body"]
    assert "Runbook: " in (services.workspace.state / "alerts.jsonl").read_text(encoding="utf-8")
    answer(services, tasks, 50, old)
    assert ask(services, actor="daily", now=old + 4 * DAY).action == "retrain"
    assert live_through(services, old + 4 * DAY, "unhelpful") == "age"
    # It did not help: the champion is as old as before, and that alone starts nothing.
    for day in range(5, 60):
        assert ask(services, actor="daily", now=old + day * DAY).action != "retrain"
    assert alerts(services, "champion-age/")[0][:2] == ("champion-age/1", "open")
    champions.register_model(services.database, replace(make_model(2), created_at=old + 60 * DAY))
    champions.compare_and_set(
        services.database, expected=1, new=2, now=old + 60 * DAY, actor="t", reason="r", evidence={}
    )
    ask(services, actor="daily", now=old + 61 * DAY)
    assert alerts(services, "champion-age/")[0][:2] == ("champion-age/1", "recovered")


def drifted(services: Services, version: int = 1) -> None:
    found = [DriftFinding("brightness", 1e-9, 0.3, True), DriftFinding("width", 0.5, 0.01, False)]
    monitoring.save_findings(services.database, NOVEMBER, version, found, now=MORNING)


def test_drift_opens_a_request_only_where_told_to_and_one_a_segment(
    services: Services, tasks: list[LabelTask], asked_on_time: None
) -> None:
    drifted(services)
    answer(services, tasks, 60, SCORED)
    assert ask(services, actor="daily", now=MORNING).action == "none"
    told = under(services, retrain_on="drift", cooldown_days=1, minimum_new_labels=1)
    assert ask(told, actor="daily", now=MORNING).action == "retrain"
    opened = requests.current_request(services.database)
    assert opened is not None
    assert (opened.window, opened.model_version, opened.evidence["cause"]) == ("2026-11", 1, "drift")
    assert live_through(told, MORNING, "unhelpful") == "drift"
    answer(services, tasks, 60, MORNING + DAY)
    again = ask(told, actor="daily", now=MORNING + 5 * DAY)
    assert again.action == "none"
    assert "has made request" in again.reason


def test_a_window_that_is_not_closed_does_not_count_as_drifted(
    services: Services, tasks: list[LabelTask], asked_on_time: None, make_chunk: Callable[..., ScoredChunk]
) -> None:
    drifted(services)
    answer(services, tasks, 60, SCORED)
    told = under(services, retrain_on="drift")
    batch = predictions.open_batch(
        services.database, batch_id="late", content_sha256="c", source="s", model_version=1,
        class_list=("cat", "dog", "owl"), items=1, scored_at=SCORED, now=SCORED,
    )  # fmt: skip
    assert ask(told, actor="daily", now=MORNING).action == "none"
    predictions.write_chunk(services.database, batch, make_chunk(0, 1, seed=5))
    predictions.close_batch(services.database, batch, MORNING)
    assert ask(told, actor="daily", now=datetime(2026, 12, 2, 6, tzinfo=UTC)).action == "none"
    assert ask(told, actor="daily", now=datetime(2026, 12, 3, tzinfo=UTC)).action == "retrain"


def test_many_asks_at_the_same_moment_open_one_request(services: Services, tasks: list[LabelTask]) -> None:
    answer(services, tasks, 60, SCORED)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: ask(services, actor="daily", now=MORNING).action, range(6)))
    assert sorted(found) == ["none"] * 5 + ["retrain"]
    assert sorted(row["action"] for row in asks(services)) == ["none", "retrain"]


def test_a_judgement_that_was_quicker_keeps_its_request(services: Services, tasks: list[LabelTask]) -> None:
    answer(services, tasks, 60, SCORED)
    stood = standing(services, now=MORNING)
    number, _ = requests.open_request(
        services.database, reason="dog fell", classes=("dog",), window="2026-11", now=MORNING, evidence={}
    )
    decision = act_on(services, stood, actor="daily", now=MORNING)
    assert decision.action == "none"
    (row,) = asks(services)
    assert f"request {number} is not finished" in row["reason"]
    assert ask_again(row["evidence"]).as_json() == decision.as_json()


def test_a_request_of_a_judgement_comes_first(services: Services, tasks: list[LabelTask]) -> None:
    answer(services, tasks, 60, SCORED)
    number, _ = requests.open_request(
        services.database, reason="dog fell", classes=("dog",), window="2026-11", now=MORNING,
        evidence={"cause": "accuracy"},
    )  # fmt: skip
    decision = ask(services, actor="daily", now=MORNING)
    assert decision.action == "none"
    assert f"request {number} is not finished" in decision.reason
    assert due_request(services, now=MORNING) is None  # it waits for the training queue


def test_a_request_refused_at_its_beginning_ends_and_its_cause_asks_again(
    services: Services, tasks: list[LabelTask], asked_on_time: None
) -> None:
    answer(services, tasks, 60, SCORED)
    eager = under(services, new_labels=60)
    assert ask(eager, actor="daily", now=MORNING).action == "retrain"
    stricter = under(services, new_labels=60, minimum_new_labels=61)
    with pytest.raises(RefusedError, match="61 are needed"):
        attempts.begin(stricter, cause="accuracy", reason="due", force=False, actor="daily", now=MORNING)
    assert requests.current_request(services.database) is None
    assert ask(eager, actor="daily", now=MORNING + DAY).action == "retrain"


def test_before_the_first_champion_only_the_schedule_is_due(database: Database, tmp_path: Path) -> None:
    git("init", "--quiet", ".", cwd=tmp_path)
    workspace = Workspace(tmp_path, Params(), Settings())
    empty = Services(workspace, database, ImageStore(str(tmp_path / "i")), Registry("sqlite://", str(tmp_path)))
    assert ask(empty, actor="daily", now=MORNING).reason == "there is no champion to renew"
    require_schedule_due(empty, now=MORNING)
