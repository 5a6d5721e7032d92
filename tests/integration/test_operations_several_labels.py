"""A service whose images carry several labels, from stored predictions to the alarm of the label that fell."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_worlds import COMMON, NAMES, Fall, LabelMonth, label_month
from sqlalchemy import text

from components.errors import RefusedError
from components.labels.consensus import settle
from components.labels.exchange import read_answers
from components.monitoring.judgement.several_labels import judge_labels_again
from components.operations.alerting import open_alerts
from components.operations.labelling import draw_closed_windows, draw_window, export_tasks
from components.operations.monitoring.backtesting import replay_history
from components.operations.monitoring.drift_explained import explain_window
from components.operations.monitoring.judging import monitor_window
from components.operations.monitoring.planning import plan_labels
from components.operations.monitoring.reference import describe_reference, reset_reference
from components.operations.retraining.advice import curve_of
from components.operations.retraining.class_mix import production_mix
from components.operations.services import Services
from components.operations.workspace import Workspace
from components.params import Labelling, Monitor, Params
from components.records import LabelAnswer, ModelVersion, ScoredChunk, Window
from components.registry.mlflow_registry import Registry
from components.scoring.images import ImageStore
from components.settings import Settings
from components.store import champions, labelling, ledger, monitoring, predictions, requests
from components.store.database import Database
from flows.commands.loop import segment_lines

IMAGES = 4000  # a week
BUDGET = 800
WEEKS = ("2026-W44", "2026-W45", "2026-W46")
NOW = datetime(2026, 12, 10, 6, tzinfo=UTC)


class Service:
    """The services, and what every scored image really shows."""

    def __init__(self, services: Services, make_chunk: Callable[..., ScoredChunk]) -> None:
        self.services = services
        self._make_chunk = make_chunk
        self.truth: dict[str, LabelMonth] = {}

    def score(self, week: str, month: LabelMonth) -> None:
        """Store a week's predictions as one batch called by the week."""
        at, rows = Window.parse(week).start + timedelta(days=2, hours=12), len(month.truth)
        probability = np.where(month.positive, month.confidence, 1 - month.confidence).astype(np.float16)
        chunk = replace(
            self._make_chunk(0, rows, seed=len(self.truth), classes=len(NAMES)),
            probabilities=probability,
            predicted=probability.argmax(axis=1).astype(np.int16),
            confidence=probability.max(axis=1).astype(np.float32),
            positive=month.positive,
        )
        database = self.services.database
        batch = predictions.open_batch(
            database, batch_id=week, content_sha256="c", source="s", model_version=1, class_list=NAMES, items=rows,
            scored_at=at, now=at, several=True,
        )  # fmt: skip
        predictions.write_chunk(database, batch, chunk)
        predictions.close_batch(database, batch, at)
        self.truth[week] = month
        (self.services.workspace.reports / f"{week}-v1.html").touch()  # a page that is there is not drawn again

    def answer(self, *, share: float = 1.0) -> int:
        """Answer open accuracy tasks truly, that share of them."""
        asked = text(
            "SELECT t.id, b.id, t.item_no FROM label_task t JOIN batch b ON b.number = t.batch_number"
            " WHERE t.queue = 'accuracy' AND t.state = 'open' ORDER BY t.id"
        )
        with self.services.database.transaction() as connection:
            rows = connection.execute(asked).all()
        rows = rows[: round(share * len(rows))]
        answers = [LabelAnswer(task, self.said(week, item), "ann", NOW) for task, week, item in rows]
        labelling.record_answers(self.services.database, answers, now=NOW, settle=partial(settle, wanted=1))
        return len(answers)

    def said(self, week: str, item: int) -> str:
        there = np.flatnonzero(self.truth[week].truth[item])
        return " | ".join(NAMES[k] for k in there) or "none of them"

    def watch(self, week: str, now: datetime = NOW) -> dict[str, Any]:
        (found,) = monitor_window(self.services, week, now=now)
        return found


@pytest.fixture
def service(
    database: Database,
    tmp_path: Path,
    make_model: Callable[..., ModelVersion],
    make_chunk: Callable[..., ScoredChunk],
) -> Service:
    (tmp_path / ".perennial" / "reports").mkdir(parents=True)
    params = Params(
        monitor=Monitor(window="week"),
        labelling=Labelling(share=BUDGET / IMAGES, reference_factor=3, answers_per_task=1),
    )
    services = Services(
        Workspace(tmp_path, params, Settings()), database, ImageStore(str(tmp_path / "images")),
        Registry("sqlite://", str(tmp_path)),
    )  # fmt: skip
    champions.register_model(database, replace(make_model(1, NAMES), several=True))
    champions.compare_and_set(database, expected=None, new=1, now=NOW, actor="t", reason="", evidence={})
    return Service(services, make_chunk)


def weeks(service: Service, *falls: Fall | None, seed: int = 1, common: np.ndarray = COMMON) -> None:
    """Score a quiet week and one for each of `falls`, and draw them all."""
    rng = np.random.default_rng(seed)
    service.score(WEEKS[0], label_month(rng, images=IMAGES))
    for week, fall in zip(WEEKS[1:], falls, strict=False):
        service.score(week, label_month(rng, fall, images=IMAGES, common=common))
    assert draw_closed_windows(service.services, now=NOW) == list(WEEKS[: 1 + len(falls)])


def test_the_label_that_fell_raises_the_alarm_and_a_quiet_week_none(service: Service) -> None:
    weeks(service, None, Fall(3, precision=0.35))
    services = service.services
    kinds = [labelling.draw_kind(services.database, Window.parse(week), 1) for week in WEEKS]
    assert kinds == ["reference", "regular", "regular"]
    drawn = [row["evidence"]["draws"][0] for row in reversed(ledger.history(services.database, 9, kind="draw"))]
    assert [one["tasks"] for one in drawn] == pytest.approx([3 * BUDGET, BUDGET, BUDGET], rel=0.05)
    assert "waiting for answers: 0 of" in service.watch(WEEKS[1])["decision"]["reason"]
    service.answer()
    assert "2026-W44 is the service's reference" in service.watch(WEEKS[0])["decision"]["reason"]

    quiet = service.watch(WEEKS[1])
    if quiet["decision"]["action"] == "ask-labels":
        service.answer()
        quiet = service.watch(WEEKS[1])
    assert quiet["decision"]["action"] == "none"
    assert [c["name"] for c in quiet["classes"]] == list(NAMES)
    assert {c["state"] for c in quiet["classes"]} <= {"ok", "suspect", "insufficient"}
    assert set(quiet["classes"][0]) == {
        "name", "predicted", "labels", "precision", "recall", "false_positive", "false_negative", "state", "reasons",
    }  # fmt: skip
    true = service.truth[WEEKS[1]]
    inside = [
        c[rate]["low"] <= truth[k] <= c[rate]["high"]
        for rate, truth in (("precision", true.precision()), ("recall", true.recall()))
        for k, c in enumerate(quiet["classes"])
    ]
    assert sum(inside) >= 21  # of 24 intervals of 95 %
    assert (quiet["overall"], quiet["calibration_error"]) == (None, None)
    assert "no single figure is honest" in quiet["skipped"]["overall"]
    for name, reason in quiet["skipped"].items():
        assert quiet[name] in (None, {"error": None, "note": reason})
    assert monitoring.estimates(services.database, Window.parse(WEEKS[1]), 1) == quiet["classes"]
    assert requests.current_request(services.database) is None

    asked = service.watch(WEEKS[2])
    assert asked["decision"]["action"] == "ask-labels"
    assert service.answer() > 0
    fallen = service.watch(WEEKS[2])
    assert fallen["decision"]["action"] == "retrain"
    assert fallen["decision"]["classes"] == ["label 3"]
    assert [c["name"] for c in fallen["classes"] if c["state"] == "alarm"] == ["label 3"]
    request = requests.current_request(services.database)
    assert request is not None
    assert (request.window, tuple(request.classes)) == (WEEKS[2], ("label 3",))
    assert request.evidence["rules"] == {"label 3": ["precision"]}
    (alert,) = open_alerts(services, "accuracy/")
    assert "label 3" in alert["title"]
    asked_to_learn = labelling.tasks(services.database, "training", None)
    assert {task.several for task in asked_to_learn} == {True}
    again = service.watch(WEEKS[2])
    assert again["decision"] == fallen["decision"]
    assert len(open_alerts(services, "accuracy/")) == 1
    row = next(r for r in ledger.history(services.database, 9, kind="judgement") if r["action"] == "retrain")
    assert judge_labels_again(json.loads(json.dumps(row["evidence"]))).alarmed == {"label 3": ("precision",)}
    lines = "\n".join(segment_lines(fallen))
    assert "label 3" in lines and "decision: retrain label 3" in lines


def test_a_label_that_is_missed_more_often_raises_the_alarm_of_its_recall(service: Service) -> None:
    weeks(service, Fall(2, recall=0.35), seed=2)
    for week in WEEKS[:2]:
        service.answer()
        service.watch(week)
    service.answer()
    found = service.watch(WEEKS[1])
    assert found["decision"]["classes"] == ["label 2"]
    request = requests.current_request(service.services.database)
    assert request is not None and request.evidence["rules"] == {"label 2": ["recall"]}


def test_labels_that_are_predicted_more_often_drift_each_by_itself(service: Service) -> None:
    common = COMMON.copy()
    common[4] = 0.3
    weeks(service, None, seed=3, common=common)
    assert {d["state"] for d in service.watch(WEEKS[0])["drift"]} == {
        "undecided: no drift reference yet; window 2026-W44 is it from now on"
    }
    found = service.watch(WEEKS[1])
    columns = {d["column"]: d["drifted"] for d in found["drift"]}
    assert [name for name in columns if name.startswith("predicted")] == [f"predicted {name}" for name in NAMES]
    assert columns["predicted label 4"]
    assert sum(columns[f"predicted {name}"] for name in NAMES) == 1
    assert found["prediction_drift"] is None
    (alert,) = open_alerts(service.services, "drift/")
    assert "predicted label 4" in alert["body"]


def test_a_reference_of_labels_is_shown_and_reset_as_one_of_classes(service: Service) -> None:
    weeks(service, None, seed=4)
    service.answer()
    service.watch(WEEKS[0])
    held_to = describe_reference(service.services)
    assert held_to is not None
    assert [one["name"] for one in held_to["classes"]] == list(NAMES)
    true = service.truth[WEEKS[0]]
    assert held_to["classes"][0]["precision"] == pytest.approx(true.precision()[0], abs=0.03)
    assert held_to["labels"] == pytest.approx(3 * BUDGET, rel=0.05)
    reset = reset_reference(service.services, WEEKS[1], reason="checked", actor="ada", now=NOW)
    assert (reset["window"], reset["actor"]) == (WEEKS[1], "ada")
    stored = monitoring.reference_level(service.services.database, several=True)
    assert stored is not None and stored.window == WEEKS[1]
    assert monitoring.reference_level(service.services.database, several=False) is None


def test_too_few_answers_judge_nothing_and_crash_nothing(service: Service) -> None:
    weeks(service, None, seed=5)
    service.answer(share=0.02)
    later = NOW + timedelta(days=8)
    found = service.watch(WEEKS[0], later)
    assert found["labels"] < 80
    assert found["decision"]["action"] == "none"
    again = service.watch(WEEKS[1], later)
    assert again["decision"]["action"] in ("none", "ask-labels")


def test_what_is_not_done_for_several_labels_says_so(service: Service, tmp_path: Path) -> None:
    weeks(service, None, seed=6)
    service.answer()
    service.watch(WEEKS[0])
    service.watch(WEEKS[1])
    services = service.services
    with pytest.raises(RefusedError, match="predicts several labels an image"):
        plan_labels(services, WEEKS[1], drop=0.1, power=0.8, trials=5, picture=None, now=NOW)
    with pytest.raises(RefusedError, match="no window was judged yet"):
        replay_history(services, [])
    (explained,) = explain_window(services, WEEKS[1], now=NOW)
    assert "where images carry several labels" in explained["summary"][0]
    assert production_mix(services) is None
    (tmp_path / "params.yaml").write_text("data: {several: true}\n")
    with pytest.raises(RefusedError, match="no learning curve is made yet"):
        curve_of(tmp_path, 1.0)
    drawn = draw_window(services, WEEKS[1], now=NOW)["draws"][0]
    assert (drawn["checks"], drawn["raised"]) == (0, None)


def test_sets_of_labels_go_out_and_come_back_as_a_file(service: Service, tmp_path: Path) -> None:
    weeks(service, seed=7)
    path = tmp_path / "tasks.csv"
    written = export_tasks(service.services, path, queue="accuracy", form="csv", images=None)
    assert written["tasks"] > 0
    assert read_answers(path) == []
    assert "none of them | unsure | bad-image" in path.read_text(encoding="utf-8")
