"""Why the predictions drifted, on a real database: a change of the class mix is told apart from a class gone wrong."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.labels.consensus import settle
from components.operations.labelling import draw_window
from components.operations.monitoring.judging import monitor_window
from components.operations.retraining.class_mix import production_mix
from components.operations.services import Services
from components.operations.workspace import Workspace
from components.params import Params
from components.records import IMAGE_STATISTICS, LabelAnswer, ModelVersion, ScoredChunk
from components.registry.mlflow_registry import Registry
from components.scoring.images import ImageStore
from components.settings import Settings
from components.store import alerts_log, champions, labelling, predictions
from components.store.database import Database

CLASSES = ("ant", "bee", "cow", "dog", "elk", "fox", "gnu", "hen")
K, ROWS = len(CLASSES), 6000
CONFIDENCE = np.array([0.5, 0.75, 0.92, 0.99])
BINS_RIGHT, BINS_WRONG = (0.02, 0.08, 0.2, 0.7), (0.3, 0.4, 0.2, 0.1)
CLOSED = timedelta(days=3)


@pytest.fixture
def services(database: Database, tmp_path: Path, make_model: Callable[..., ModelVersion]) -> Services:
    champions.register_model(database, make_model(1, CLASSES))
    images = ImageStore(str(tmp_path / "images"))
    return Services(Workspace(tmp_path, Params(), Settings()), database, images, Registry("sqlite://", str(tmp_path)))


def score_month(services: Services, month: int, mix: np.ndarray, lost: int | None = None) -> dict[str, int]:
    """Store a month's predictions and return the truth by image; class `lost` is taken for anything, hesitantly."""
    rng = np.random.default_rng([7, month])
    truth = rng.choice(K, ROWS, p=mix / mix.sum())
    right = rng.random(ROWS) < np.where(truth == lost, 0.3, 0.93)
    # What is wrong is one of the two neighbours.
    predicted = np.where(right, truth, (truth + rng.choice([1, K - 1], ROWS)) % K)
    bins = np.where(right, rng.choice(4, ROWS, p=BINS_RIGHT), rng.choice(4, ROWS, p=BINS_WRONG))
    confidence = CONFIDENCE[bins].astype(np.float32)
    chunk = ScoredChunk(
        item_no=np.arange(ROWS, dtype=np.int64),
        image_id=tuple(f"{month:04x}{item:060x}" for item in range(ROWS)),
        name=tuple(f"{item}.png" for item in range(ROWS)),
        predicted=predicted.astype(np.int16),
        confidence=confidence,
        probabilities=np.where(
            np.arange(K) == predicted[:, None], confidence[:, None], (1 - confidence[:, None]) / (K - 1)
        ).astype(np.float16),
        ood_score=np.zeros(ROWS, np.float32),
        statistics={name: rng.random(ROWS).astype(np.float32) for name in IMAGE_STATISTICS},
        needs_review=confidence < 0.7,
        latency_ms=1.0,
        shard=f"2026-{month:02d}/a.arrow",
    )
    at = datetime(2026, month, 20, tzinfo=UTC)
    batch = predictions.open_batch(
        services.database, batch_id=f"b{month}", content_sha256=f"c{month}", source="s", model_version=1,
        class_list=CLASSES, items=ROWS, scored_at=at, now=at,
    )  # fmt: skip
    predictions.write_chunk(services.database, batch, chunk)
    predictions.close_batch(services.database, batch, at)
    return dict(zip(chunk.image_id, (CLASSES[t] for t in truth), strict=True))


def watched(services: Services, month: int, truth: dict[str, str] | None = None) -> dict[str, Any]:
    """Return what the monitor finds in a month; with `truth`, its draw is answered first."""
    name, now = f"2026-{month:02d}", datetime(2026, month + 1, 1, tzinfo=UTC) + CLOSED
    if truth is not None:
        draw_window(services, name, now=now)
        open_tasks = labelling.tasks(services.database, "accuracy", limit=None)
        answers = [LabelAnswer(task.task_id, truth[task.image_id], "ann", now) for task in open_tasks]
        labelling.record_answers(services.database, answers, now=now, settle=partial(settle, wanted=1))
    page = services.workspace.reports / f"{name}-v1.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.touch()  # tested elsewhere, and dear to draw
    (found,) = monitor_window(services, name, now=now)
    return found


def test_the_predictions_say_whether_the_mix_changed_or_a_class_went_wrong(services: Services) -> None:
    even = np.ones(K)
    assert watched(services, 1, score_month(services, 1, even))["prediction_drift"] is None

    score_month(services, 2, even)
    assert watched(services, 2)["prediction_drift"] is None

    score_month(services, 3, np.where(np.arange(K) == 2, 3.0, 1.0))
    mix = watched(services, 3)
    assert mix["prediction_drift"]["state"] == "mix"
    assert "class mix changed: cow 12." in mix["prediction_drift"]["reason"]

    score_month(services, 4, even, lost=5)
    lost = watched(services, 4)
    assert lost["prediction_drift"]["state"] == "not-mix"

    bodies = [alert["body"] for alert in alerts_log.recent_alerts(services.database, 10)]
    assert sum("class mix changed: cow" in body for body in bodies) == 1
    assert sum("a class looks different or is new" in body for body in bodies) == 1


def test_the_mix_that_training_may_be_weighted_by_is_that_of_the_latest_judged_window(services: Services) -> None:
    database = services.database
    first = datetime(2026, 1, 1, tzinfo=UTC)
    champions.compare_and_set(database, expected=None, new=1, now=first, actor="ada", reason="first", evidence={})
    assert production_mix(services) is None
    watched(services, 1, score_month(services, 1, np.ones(K)))
    score_month(services, 2, np.where(np.arange(K) == 2, 3.0, 1.0))
    found = production_mix(services)
    assert found is not None
    window, shares = found
    assert window == "2026-01"
    assert tuple(shares) == CLASSES
    assert sum(shares.values()) == pytest.approx(1, abs=1e-4)
    assert all(0.09 < share < 0.16 for share in shares.values())


def test_without_an_earlier_labelled_window_the_confidences_say_what_mix_it_would_be(services: Services) -> None:
    even = np.ones(K)
    score_month(services, 1, even)
    watched(services, 1)
    score_month(services, 2, np.where(np.arange(K) == 2, 3.0, 1.0))
    found = watched(services, 2)
    assert any(one["drifted"] for one in found["drift"])
    cause = found["prediction_drift"]
    assert cause["state"] == "undecided"
    assert cause["reason"].startswith(
        "no labelled window of this model is known; if only the class mix changed, then cow 12."
    )
    assert 0.27 < cause["mix"][2] < 0.33
