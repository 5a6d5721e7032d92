"""A draw that asks for more, on a real database: raised by a suspect or by new drift, recorded, repeatable."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from components.labels.consensus import settle
from components.monitoring.backtests.rules import compared
from components.monitoring.sampling.one_class import allocate
from components.operations.labelling import draw_window
from components.operations.monitoring.backtesting import replay_history
from components.operations.monitoring.judging import monitor_window
from components.operations.services import Services
from components.operations.workspace import Workspace
from components.params import Labelling, Params
from components.records import IMAGE_STATISTICS, LabelAnswer, ModelVersion, ScoredChunk, Window
from components.registry.mlflow_registry import Registry
from components.scoring.images import ImageStore
from components.settings import Settings
from components.store import alerts_log, champions, labelling, ledger, monitoring, predictions
from components.store.database import Database

CLASSES = ("ant", "bee", "cow")
ROWS, SHARE = 4000, 0.05
BUDGET = int(ROWS * SHARE)
RIGHT = {"ant": 0.93, "bee": 0.93, "cow": 0.93}
Right = dict[str, float]


@pytest.fixture
def services(database: Database, tmp_path: Path, make_model: Callable[..., ModelVersion]) -> Services:
    champions.register_model(database, make_model(1, CLASSES))
    (tmp_path / ".perennial" / "reports").mkdir(parents=True)
    workspace = Workspace(tmp_path, Params(labelling=Labelling(share=SHARE)), Settings())
    return Services(workspace, database, ImageStore(str(tmp_path / "images")), Registry("sqlite://", str(tmp_path)))


def score(services: Services, month: int, *, darker: float = 0.0, rows: int = ROWS) -> None:
    rng = np.random.default_rng([3, month, rows])
    predicted, bins = rng.choice(3, rows), rng.choice(4, rows, p=(0.05, 0.1, 0.2, 0.65))
    confidence = np.array([0.5, 0.75, 0.92, 0.99])[bins].astype(np.float32)
    others = ((1 - confidence) / 2)[:, None]
    statistics = {name: rng.random(rows).astype(np.float32) for name in IMAGE_STATISTICS}
    statistics["brightness"] -= np.float32(darker)
    chunk = ScoredChunk(
        item_no=np.arange(rows, dtype=np.int64),
        image_id=tuple(f"{month:04x}{rows:04x}{item:056x}" for item in range(rows)),
        name=tuple(f"{item}.png" for item in range(rows)),
        predicted=predicted.astype(np.int16),
        confidence=confidence,
        probabilities=np.where(np.arange(3) == predicted[:, None], confidence[:, None], others).astype(np.float16),
        ood_score=np.zeros(rows, np.float32),
        statistics=statistics,
        needs_review=confidence < 0.7,
        latency_ms=1.0,
        shard=f"2026-{month:02d}/{rows}.arrow",
    )
    at = datetime(2026, month, 20, tzinfo=UTC)
    batch = predictions.open_batch(
        services.database, batch_id=f"b{month}-{rows}", content_sha256="c", source="s", model_version=1,
        class_list=CLASSES, items=rows, scored_at=at, now=at,
    )  # fmt: skip
    predictions.write_chunk(services.database, batch, chunk)
    predictions.close_batch(services.database, batch, at)
    (services.workspace.reports / f"2026-{month:02d}-v1.html").touch()  # tested elsewhere, and dear to draw


def closed(month: int) -> datetime:
    return datetime(2026, month + 1, 3, 6, tzinfo=UTC)


def answer(services: Services, now: datetime, right: Right) -> None:
    asked = text(
        "SELECT t.id, c.classes[t.predicted + 1], t.u FROM label_task t JOIN class_list c ON c.id = t.class_list_id"
        " WHERE t.queue = 'accuracy' AND t.state = 'open'"
    )
    with services.database.transaction() as connection:
        rows = connection.execute(asked).all()
    answers = []
    for task, predicted, u in rows:
        wrong = "ant" if predicted == "cow" else "cow"
        answers.append(LabelAnswer(task, predicted if (u * 7919) % 1 < right[predicted] else wrong, "ann", now))
    labelling.record_answers(services.database, answers, now=now, settle=partial(settle, wanted=1))


def month(services: Services, number: int, right: Right) -> tuple[dict[str, Any], dict[str, Any]]:
    """Score, draw, answer and judge a month to its end; return its draw and what the monitor says last."""
    name, now = f"2026-{number:02d}", closed(number)
    draw = draw_window(services, name, now=now)
    for _ in range(2):
        answer(services, now, right)
        (found,) = monitor_window(services, name, now=now)
    return draw["draws"][0], found


def raised_rows(services: Services) -> list[dict[str, Any]]:
    return [row for row in ledger.history(services.database, 50, kind="draw") if row["action"] == "raised"]


def weights(services: Services, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of 1 / pi over the tasks of every stratum, and N_h."""
    asked = text(
        "SELECT predicted, conf_bin, sum(1 / inclusion_probability) FROM label_task"
        " WHERE queue = 'accuracy' AND window_name = :name GROUP BY predicted, conf_bin"
    )
    population = labelling.counts(services.database, Window.parse(name), 1).population
    found = np.zeros_like(population, dtype=float)
    with services.database.transaction() as connection:
        for k, b, total in connection.execute(asked, {"name": name}):
            found[k, b] = total
    return found, population


def test_a_suspect_that_was_not_shown_is_asked_about_more_in_the_next_window(services: Services) -> None:
    for number in (1, 2, 3):
        score(services, number)
    reference, _ = month(services, 1, RIGHT)
    assert (reference["kind"], reference["raised"]) == ("reference", None)
    _, found = month(services, 2, {**RIGHT, "bee": 0.905})
    assert {c["name"]: c["state"] for c in found["classes"]}["bee"] == "suspect"
    assert found["decision"]["action"] == "none"

    draw, _ = month(services, 3, RIGHT)
    (row,) = raised_rows(services)
    # Of the 200 further labels that a doubled budget has room for, all of the suspects' own.
    assert draw["raised"]["labels"] == sum(draw["raised"]["suspects"].values()) == BUDGET
    assert draw["tasks"] == 2 * BUDGET
    assert "bee" in draw["raised"]["suspects"]
    assert (row["window"], row["evidence"]["questions"]["window"]) == ("2026-03", "2026-02")
    assert "bee was suspected in 2026-02" in row["reason"]
    drawn = labelling.counts(services.database, Window.parse("2026-03"), 1)
    assert (drawn.drawn >= allocate(drawn, BUDGET)).all()
    total, population = weights(services, "2026-03")
    np.testing.assert_allclose(total, population)

    # Drawn again, after it was judged and with rules that changed: the same draw, and no further row.
    rows = len(ledger.history(services.database, 50))
    assert draw_window(services, "2026-03", now=closed(3))["draws"][0] == draw
    assert len(ledger.history(services.database, 50)) == rows
    # A replay of the rules in force asks for the same labels and decides the same.
    replayed = replay_history(services, compared(services.workspace.params, [])[:1])
    assert replayed["agreement"]["same"] == replayed["agreement"]["of"] == 3
    by_window = {w["window"]: w for w in replayed["rules"][0]["windows"]}
    assert by_window["2026-03"]["missing"] == 0
    assert by_window["2026-03"]["labels"] >= draw["tasks"]


def test_a_decision_to_ask_for_more_outlives_a_crash_before_the_draw(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        score(services, number, darker=0.4 if number == 2 else 0)
    month(services, 1, RIGHT)

    def dies(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(labelling, "freeze_and_draw", dies)
        with pytest.raises(KeyboardInterrupt):
            draw_window(services, "2026-02", now=closed(2))
    assert len(raised_rows(services)) == 1
    assert draw_window(services, "2026-02", now=closed(2))["draws"][0]["tasks"] == BUDGET * 3 // 2
    assert len(raised_rows(services)) == 1


def test_new_drift_raises_its_own_windows_draw_and_the_alert_says_by_how_much(services: Services) -> None:
    for number in (1, 2, 3):
        score(services, number, darker=0 if number == 1 else 0.4)
    month(services, 1, RIGHT)
    watched_at = closed(2) - timedelta(days=10)
    (open_window,) = monitor_window(services, "2026-02", now=watched_at)
    assert [d["column"] for d in open_window["drift"] if d["drifted"]] == ["brightness"]
    (alert,) = [a for a in alerts_log.recent_alerts(services.database, 10) if a["key"].startswith("drift/")]
    assert f"{BUDGET // 2} more labels, by what has come so far, are asked for when the window" in alert["body"]

    draw, _ = month(services, 2, RIGHT)
    assert (draw["raised"]["drift"], draw["tasks"]) == (BUDGET // 2, BUDGET * 3 // 2)
    # It drifted no further: the reference is frozen, and the accuracy has been asked about.
    draw, _ = month(services, 3, RIGHT)
    assert draw["raised"] is None
    assert draw["tasks"] == BUDGET
    assert monitoring.findings(services.database, Window.parse("2026-03"), 1)


def test_drift_that_is_first_seen_after_the_draw_is_told_with_the_labels_it_brought(services: Services) -> None:
    for number in (1, 2):
        score(services, number, darker=0 if number == 1 else 0.4)
    month(services, 1, RIGHT)
    month(services, 2, RIGHT)
    (alert,) = [a for a in alerts_log.recent_alerts(services.database, 10) if a["key"].startswith("drift/")]
    assert f"What was done: {BUDGET // 2} more labels were asked for" in alert["body"]
