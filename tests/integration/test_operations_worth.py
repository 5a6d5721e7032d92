"""A year of asking whether to retrain, answered from the service's own records: requests, labels and datasets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from components.data.versioning.git import git
from components.labels.consensus import settle
from components.monitoring.retraining import Cause, Outcome
from components.operations.retraining.worth import decide
from components.operations.services import Services
from components.operations.workspace import Workspace
from components.params import Params, Retrain
from components.records import Decision, LabelAnswer, LabelTask, ModelVersion, Window
from components.registry.mlflow_registry import Registry
from components.scoring.images import ImageStore
from components.settings import Settings
from components.store import champions, labelling, requests
from components.store.database import Database
from components.store.scored.batches import Batch

BEGIN = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOVEMBER = Window.parse("2026-11")
LEASE_SECONDS = 600
FIRST_DATASET = "data/2026-11-01-1"
CAUSES: tuple[Cause, ...] = ("schedule", "accuracy", "labels", "age")


@pytest.fixture
def services(database: Database, model: ModelVersion, tmp_path: Path) -> Services:
    """A workspace with a champion that was trained on its one dataset version."""
    git("init", "--quiet", ".", cwd=tmp_path)
    git(
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@localhost",
        "commit",
        "--quiet",
        "--allow-empty",
        "-m",
        "x",
        cwd=tmp_path,
    )
    git("tag", FIRST_DATASET, cwd=tmp_path)
    champions.compare_and_set(database, expected=None, new=1, now=BEGIN, actor="t", reason="first", evidence={})
    workspace = Workspace(tmp_path, Params(), Settings())
    return Services(workspace, database, ImageStore(str(tmp_path / "images")), Registry("sqlite://", str(tmp_path)))


@pytest.fixture
def tasks(services: Services, fill_batch: Callable[..., Batch]) -> list[LabelTask]:
    fill_batch("b1", 1500)
    labelling.fill_training_queue(services.database, NOVEMBER, 1, classes=(), limit=1500, now=BEGIN)
    return labelling.tasks(services.database, "training", limit=None)


def under(services: Services, **rules: object) -> Services:
    """The same service under other rules of retraining."""
    params = services.workspace.params.model_copy(update={"retrain": Retrain(**rules)})
    return replace(services, workspace=replace(services.workspace, params=params))


def answer(services: Services, tasks: list[LabelTask], many: int, at: datetime) -> None:
    """Answer the next `many` of `tasks`, which are used up."""
    given = [LabelAnswer(tasks.pop().task_id, "dog", "ann", at) for _ in range(min(many, len(tasks)))]
    labelling.record_answers(services.database, given, now=at, settle=partial(settle, wanted=1))


def ask(services: Services, now: datetime, cause: Cause = "accuracy", *, force: bool = False) -> Decision:
    return decide(services, cause=cause, force=force, now=now)


def begin(services: Services, now: datetime) -> int:
    number, _ = requests.open_request(services.database, reason="r", classes=(), window=None, now=now, evidence={})
    assert requests.claim_request(services.database, now, LEASE_SECONDS, "worker") is not None
    return number


def attempt(services: Services, now: datetime, outcome: Outcome) -> None:
    """Live through one attempt; unless it failed at once, it took the labels into the training data."""
    number = begin(services, now)
    if outcome != "failed":
        settled = [label.task_id for label in labelling.settled_labels(services.database)]
        labelling.mark_exported(services.database, settled, FIRST_DATASET)
    requests.finish_request(services.database, number, outcome, "", now + timedelta(hours=2), worker="worker")


@pytest.mark.parametrize("rules", [{}, {"cooldown_days": 0, "minimum_new_labels": 20}], ids=["as shipped", "eager"])
def test_in_a_year_of_asks_attempts_keep_to_the_month_the_cooldown_and_the_labels(
    services: Services, tasks: list[LabelTask], rules: dict[str, object]
) -> None:
    service = under(services, **rules)
    least = service.workspace.params.retrain
    outcomes: tuple[Outcome, ...] = ("done", "unhelpful", "unhelpful", "failed")
    started: list[datetime] = []
    labelled: list[int] = []
    waiting = 0
    for number in range(125):
        now = BEGIN + timedelta(days=3 * number, hours=number % 11)
        fresh = 0 if number % 30 < 10 else 14  # a month of every quarter nobody labels
        answer(service, tasks, fresh, now - timedelta(hours=1))
        waiting += fresh
        if ask(service, now, CAUSES[number % len(CAUSES)]).action == "retrain":
            outcome = outcomes[len(started) % len(outcomes)]
            attempt(service, now, outcome)
            started.append(now)
            labelled.append(waiting)
            waiting = waiting if outcome == "failed" else 0
    assert tasks  # there were labels to the end
    assert len(started) >= 5
    assert max(Counter(f"{moment:%Y-%m}" for moment in started).values()) <= least.most_per_month
    assert min(later - earlier for earlier, later in pairwise(started)) >= timedelta(days=least.cooldown_days)
    assert min(labelled) >= least.minimum_new_labels


def test_attempts_are_counted_by_calendar_month(services: Services, tasks: list[LabelTask]) -> None:
    service = under(services, cooldown_days=0, most_per_month=2, minimum_new_labels=1)
    for day in (28, 29):
        answer(service, tasks, 5, BEGIN)
        attempt(service, datetime(2026, 11, day, 3, tzinfo=UTC), "failed")
    answer(service, tasks, 5, BEGIN)
    last_second = datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)
    refused = ask(service, last_second)
    assert refused.action == "refused"
    assert "2 retrainings this month, at most 2 are allowed" in refused.reason
    assert ask(service, last_second + timedelta(seconds=1)).action == "retrain"


@pytest.mark.parametrize("outcome", ["unhelpful", "done"])
def test_labels_that_an_attempt_has_used_start_no_second_one(
    services: Services, tasks: list[LabelTask], outcome: Outcome
) -> None:
    answer(services, tasks, 60, BEGIN)
    assert ask(services, BEGIN).action == "retrain"
    attempt(services, BEGIN, outcome)
    later = BEGIN + timedelta(days=60)
    answer(services, tasks, 49, later)
    for cause in CAUSES:
        assert "49 new audited labels since the last training, 50 are needed" in ask(services, later, cause).reason
    answer(services, tasks, 1, later)
    assert ask(services, later).action == "retrain"


def test_a_new_dataset_needs_no_labels(services: Services) -> None:
    assert ask(services, BEGIN).action == "refused"
    git("tag", "data/2026-11-19-1", cwd=services.workspace.root)
    assert ask(services, BEGIN).action == "retrain"


@pytest.mark.parametrize("force", [False, True])
def test_while_an_attempt_is_under_way_nobody_starts_another(
    services: Services, tasks: list[LabelTask], force: bool
) -> None:
    begin(services, BEGIN)
    answer(services, tasks, 60, BEGIN + timedelta(hours=1))
    for cause in (*CAUSES, "manual"):
        refused = ask(services, BEGIN + timedelta(days=90), cause, force=force)
        assert refused.action == "refused"
        assert "another retraining is under way (worker" in refused.reason


def test_an_attempt_dated_in_the_future_holds_the_next_one_up_and_says_until_when(
    services: Services, tasks: list[LabelTask]
) -> None:
    attempt(services, BEGIN + timedelta(days=300), "done")
    answer(services, tasks, 60, BEGIN)
    refused = ask(services, BEGIN)
    assert refused.action == "refused"
    assert "the cooldown ends 2027-10-06 12:00 UTC" in refused.reason
    assert ask(services, BEGIN, force=True).action == "retrain"
