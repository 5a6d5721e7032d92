"""Pixels and pages go when their time is up, and not while somebody still needs them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from components.labels.consensus import settle
from components.operations.retention import expire
from components.operations.services import Services
from components.operations.workspace import Workspace
from components.params import Params
from components.records import LabelAnswer, Window
from components.registry.mlflow_registry import Registry
from components.scoring.images import ImageStore
from components.settings import Settings
from components.store import labelling, ledger
from components.store.database import Database
from components.store.scored.batches import Batch

OCTOBER = datetime(2025, 10, 20, tzinfo=UTC)
LATER = datetime(2026, 3, 20, tzinfo=UTC)  # more than 90, less than 180 days after October closed


@pytest.fixture
def services(database: Database, tmp_path: Path) -> Services:
    workspace = Workspace(tmp_path, Params(), Settings())
    images = ImageStore(str(tmp_path / "images"))
    for month in ("2025-10", "2026-02"):
        images.put(f"{month}/b-00000.arrow", [("0" * 64, b"pixels")])
    return Services(workspace, database, images, Registry("sqlite://", str(tmp_path)))


def months(services: Services) -> list[str]:
    return [f"{month:%Y-%m}" for month in services.images.months()]


def ask_one(services: Services) -> int:
    labelling.fill_training_queue(
        services.database, Window.parse("2025-10"), 1, classes=(), limit=1, now=OCTOBER + timedelta(days=15)
    )
    (task,) = labelling.tasks(services.database, "training", limit=None)
    return task.task_id


def test_a_month_goes_when_its_time_is_up_and_a_younger_one_stays(services: Services) -> None:
    assert expire(services, now=LATER)["months"] == ["2025-10"]
    assert months(services) == ["2026-02"]
    assert ledger.history(services.database, limit=1)[0]["kind"] == "retention"


def test_nothing_is_said_when_nothing_goes(services: Services) -> None:
    assert expire(services, now=OCTOBER) == {"months": [], "pages": []}
    assert ledger.history(services.database, limit=1) == []


def test_an_open_task_keeps_its_pixels_for_twice_the_time(services: Services, fill_batch: Callable[..., Batch]) -> None:
    fill_batch(scored_at=OCTOBER)
    ask_one(services)
    assert expire(services, now=LATER)["months"] == []
    assert expire(services, now=LATER + timedelta(days=200))["months"] == ["2025-10", "2026-02"]


def test_an_answer_keeps_its_pixels_until_it_is_in_the_training_data(
    services: Services, fill_batch: Callable[..., Batch]
) -> None:
    fill_batch(scored_at=OCTOBER)
    task = ask_one(services)
    answer = LabelAnswer(task, "cat", "ann", OCTOBER + timedelta(days=16))
    labelling.record_answers(services.database, [answer], now=LATER, settle=partial(settle, wanted=1))
    assert expire(services, now=LATER + timedelta(days=2000))["months"] == ["2026-02"]
    labelling.mark_exported(services.database, [task], "data/2026-03-20-1")
    assert expire(services, now=LATER + timedelta(days=2000))["months"] == ["2025-10"]


def test_pages_go_by_their_window_and_strangers_stay(services: Services) -> None:
    reports = services.workspace.reports
    reports.mkdir(parents=True)
    for name in ("2025-10-v1.html", "2026-02-v1.html", "notes-v1.html"):
        (reports / name).touch()
    assert expire(services, now=LATER)["pages"] == ["2025-10-v1.html"]
    assert sorted(path.name for path in reports.iterdir()) == ["2026-02-v1.html", "notes-v1.html"]
